"""Phrases of an agenda user, by tone and language."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Phrases to choose from, in which `{name}` and `{tell}` are replaced by a fact's.

    `greeting` comes before the opening, and one of the `courtesies` after half of the replies.
    """

    complaints: tuple[str, ...]
    corrections: tuple[str, ...]
    second_thoughts: tuple[str, ...]
    clueless: tuple[str, ...]
    fillers: tuple[str, ...]
    nudges: tuple[str, ...]
    thanks: tuple[str, ...]
    farewells: tuple[str, ...]
    greeting: str = ""
    courtesies: tuple[str, ...] = ()


WORDINGS = {
    "neutral": Wording(
        complaints=(
            "The {name} is missing. {tell}",
            "You left out the {name}. {tell}",
            "It does not say the {name}. {tell}",
        ),
        corrections=("I gave you the wrong {name}. {tell}", "My mistake, the {name} was wrong. {tell}"),
        second_thoughts=("I changed my mind about the {name}. {tell}", "No, another {name} is better. {tell}"),
        clueless=("I do not know what else matters.", "I am not sure what you need to know."),
        fillers=("No preference there.", "That does not matter to me.", "Up to you."),
        nudges=("Please go ahead with it.", "Could you write it, please?", "I would like to see it now."),
        thanks=("That is just right, thank you!", "Perfect, thanks a lot."),
        farewells=("Never mind, I will do it myself.", "This takes too long, bye."),
    ),
    "friendly": Wording(
        complaints=(
            "Nearly there, only the {name} is missing. {tell}",
            "I like it, but you left out the {name}. {tell}",
            "Could you put in the {name} too? {tell}",
        ),
        corrections=("Oh no, I gave you the wrong {name}, sorry! {tell}", "Silly me, the {name} was wrong. {tell}"),
        second_thoughts=("Sorry, I changed my mind about the {name}! {tell}", "Oh, I have a better {name}. {tell}"),
        clueless=("Oh, I really do not know what else matters!", "Hm, I am not sure, what do you need to know?"),
        fillers=("Anything is fine with me!", "You choose, I am happy either way.", "I do not mind at all!"),
        nudges=("I cannot wait to see it!", "Would you write it for me?", "Go ahead, I am sure it will be lovely."),
        thanks=("That is lovely, thank you so much!", "Wonderful, thanks a million!"),
        farewells=("Sorry, I have to run, bye!", "I think I will try it myself, but thanks for trying!"),
        greeting="Hi there!",
        courtesies=("Thanks!", "That would be great.", "You are a great help!"),
    ),
    "formal": Wording(
        complaints=(
            "I note that the {name} has been omitted. {tell}",
            "The text does not yet state the {name}. {tell}",
            "I must ask you to include the {name}. {tell}",
        ),
        corrections=(
            "I must correct myself, as I gave you the wrong {name}. {tell}",
            "I regret that the {name} I gave you was wrong. {tell}",
        ),
        second_thoughts=(
            "On reflection I have reconsidered the {name}. {tell}",
            "I have changed my mind about the {name}. {tell}",
        ),
        clueless=(
            "I regret that I do not know what else is relevant.",
            "I cannot say what else you need.",
        ),
        fillers=(
            "I have no preference in this matter.",
            "I leave this to your judgement.",
            "It is of no importance.",
        ),
        nudges=(
            "I should be grateful if you would proceed.",
            "Would you kindly prepare the text?",
            "I look forward to seeing the text.",
        ),
        thanks=("This is entirely satisfactory, thank you.", "This meets my requirements, thank you very much."),
        farewells=("I shall attend to this myself. Good day.", "I regret that I cannot wait any longer. Good day."),
        greeting="Good day.",
        courtesies=("Thank you in advance.", "I appreciate your assistance."),
    ),
    "brusque": Wording(
        complaints=("No {name}. {tell}", "Where is the {name}? {tell}", "{name} missing. {tell}"),
        corrections=("Wrong {name}, my fault. {tell}", "Scrap the {name} I gave you. {tell}"),
        second_thoughts=("Other {name} now. {tell}", "Forget the old {name}. {tell}"),
        clueless=("How should I know?", "You tell me."),
        fillers=("Whatever.", "Who cares.", "Skip that."),
        nudges=("Just write it.", "Get on with it.", "Well?"),
        thanks=("Fine, thanks.", "That will do, thanks."),
        farewells=("Forget it.", "Useless. Bye."),
    ),
}
"""Phrases by tone. The published figures were measured with the neutral ones."""

LANGUAGES = {
    "Arabic": ("Marhaba!", "Shukran!"),
    "Chinese": ("Ni hao!", "Xiexie!"),
    "Dutch": ("Hallo!", "Dank je wel!"),
    "French": ("Bonjour !", "Merci !"),
    "German": ("Hallo!", "Danke!"),
    "Hindi": ("Namaste!", "Dhanyavaad!"),
    "Italian": ("Buongiorno!", "Grazie!"),
    "Japanese": ("Konnichiwa!", "Arigato!"),
    "Polish": ("Witam!", "Dzięki!"),
    "Portuguese": ("Olá!", "Obrigado!"),
    "Russian": ("Privet!", "Spasibo!"),
    "Spanish": ("¡Hola!", "¡Gracias!"),
    "Swahili": ("Jambo!", "Asante!"),
    "Turkish": ("Merhaba!", "Teşekkürler!"),
    "Vietnamese": ("Xin chào!", "Cảm ơn!"),
}
"""Greeting and thanks of an agenda user by language, whatever the language of its agenda."""
