"""A task set made by rule from a seed: short texts whose facts the user keeps until asked.

Small enough for a small model to learn on, real enough that asking first pays: each goal has 3 to 6 facts that
nobody can guess, and a text without them is not what the user wants.
"""

import random
from dataclasses import dataclass
from itertools import count
from typing import Any

from collab_agents._internal.reasons import nearest
from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError
from collab_agents.tasks.task import Task

SPLITS = {"train": 192, "test": 48}


@dataclass(frozen=True)
class _Slot:
    """A fact that a kind of task may have: its values, how a user tells one and how the finished text says it."""

    name: str
    ask: tuple[str, ...]
    values: tuple[str, ...]
    tell: str
    line: str


@dataclass(frozen=True)
class _Kind:
    name: str
    what: str
    openings: tuple[str, ...]
    greeting: str
    slots: tuple[_Slot, ...]
    ending: str


_DAYS = tuple(
    f"{day} {date} {month}"
    for day, date, month in (
        ("Saturday", 14, "June"), ("Friday", 3, "May"), ("Sunday", 22, "September"), ("Thursday", 9, "October"),
        ("Monday", 17, "March"), ("Tuesday", 28, "January"), ("Wednesday", 5, "November"), ("Saturday", 30, "August"),
    )
)  # fmt: skip
_TIMES = ("7 pm", "half past six", "noon", "9 am", "4 pm", "8 pm", "11 am", "quarter past three")
_NAMES = ("Nora", "Mr. Okafor", "Lena Fischer", "Grandma Ruth", "Tomas", "Dr. Patel", "Aunt Mei", "Samuel")
_CITIES = ("Lisbon", "Kyoto", "Bergen", "Valencia", "Tallinn", "Quebec", "Ghent", "Cork")
_MONEY = ("120 euros", "450 dollars", "80 pounds", "900 euros", "65 dollars", "1500 euros", "240 pounds", "35 dollars")

_WHEN = ("when", "what day", "which day", "what date", "date")
_TIME = ("what time", "which time", "time", "when does it start", "start")
_WHERE = ("where", "location", "place", "venue", "address")

_KINDS = (
    _Kind(
        "invitation", "an invitation to a party",
        ("Can you write an invitation for my party?", "I need an invitation to a party.",
         "Help me write a party invitation, please."),
        "You are invited!",
        (
            _Slot("occasion", ("occasion", "what kind of party", "celebrating", "theme", "what is the party for"),
                  ("my 40th birthday", "our housewarming", "my graduation", "our silver wedding", "my retirement"),
                  "It is for {value}.", "Come and celebrate {value} with us."),
            _Slot("date", _WHEN, _DAYS, "It is on {value}.", "The party is on {value}."),
            _Slot("time", _TIME, _TIMES, "It starts at {value}.", "We start at {value}."),
            _Slot("place", _WHERE, ("the Blue Barn", "Elm Park", "the old boathouse", "12 Mill Lane", "Cafe Aurora"),
                  "It is at {value}.", "You find us at {value}."),
            _Slot("dress code", ("dress", "wear", "dress code"), ("all in white", "1920s style", "garden boots",
                  "something green"), "People should come {value}.", "Please come {value}."),
            _Slot("thing to bring", ("bring", "gifts", "gift", "presents"), ("a dessert", "a board game",
                  "a picnic blanket", "a favourite song"), "Guests should bring {value}.", "Please bring {value}."),
        ),
        "We look forward to seeing you!",
    ),
    _Kind(
        "trip", "a plan for a short trip",
        ("Plan a short trip for me.", "I want to go away for a few days, can you plan it?",
         "Can you make me a travel plan?"),
        "Here is your trip.",
        (
            _Slot("destination", ("where", "destination", "which city", "place"), _CITIES,
                  "I want to go to {value}.", "You travel to {value}."),
            _Slot("length", ("how long", "how many days", "duration", "days", "length"),
                  ("three days", "five days", "a long weekend", "one week"),
                  "I have {value}.", "The trip takes {value}."),
            _Slot("budget", ("budget", "how much", "spend", "cost"), _MONEY,
                  "I can spend {value}.", "It stays within {value}."),
            _Slot("company", ("who", "travelling with", "traveling with", "alone", "how many people", "with you"),
                  ("two small children", "my father", "four friends", "my dog"),
                  "I travel with {value}.", "Everything suits {value}."),
            _Slot("interest", ("interest", "interests", "enjoy", "like to do", "activities", "activity"),
                  ("street food", "modern art", "birdwatching", "old trains", "surfing"),
                  "What I care for is {value}.", "There is a day for {value}."),
            _Slot("month", ("when", "month", "season", "date", "dates"), ("early April", "mid July", "late October",
                  "February"), "I would go in {value}.", "You leave in {value}."),
        ),
        "Have a good journey!",
    ),
    _Kind(
        "order", "an order to a restaurant by e-mail",
        ("Write an order to a restaurant for me.", "I want to order food for a group, can you write the e-mail?",
         "Can you write a food order?"),
        "Hello, I would like to place an order.",
        (
            _Slot("dish", ("dish", "what food", "which food", "what would you like", "menu", "what to order", "items"),
                  ("mushroom lasagne", "chicken biryani", "vegetable dumplings", "fish tacos", "onion quiche"),
                  "We want {value}.", "Please prepare {value}."),
            _Slot("number of people", ("how many", "number", "portions", "quantity", "people", "guests"),
                  ("14 people", "30 people", "8 people", "22 people"), "It is for {value}.", "It must serve {value}."),
            _Slot("delivery time", ("when", "what time", "time", "delivery time", "date"), _TIMES,
                  "It has to be there at {value}.", "Deliver it at {value}."),
            _Slot("address", ("where", "address", "delivered", "delivery address", "location"),
                  ("5 Harbour Street", "the town library", "27 Rose Avenue", "room 204", "Gate C"),
                  "Bring it to {value}.", "The address is {value}."),
            _Slot("allergy", ("allergy", "allergies", "dietary", "diet", "restrictions"),
                  ("no peanuts", "no gluten", "no shellfish", "no dairy"), "It must have {value}.",
                  "Important: {value}."),
            _Slot("payment", ("pay", "payment", "paying"), ("cash on delivery", "a company invoice", "a gift card"),
                  "I pay with {value}.", "We pay with {value}."),
        ),
        "Please confirm the order. Thank you!",
    ),
    _Kind(
        "bug_report", "a bug report for a program",
        ("Help me write a bug report.", "I found a bug, write a report for the developers.",
         "Can you write up a bug for me?"),
        "Bug report",
        (
            _Slot("program", ("which program", "which software", "what software", "what program", "app",
                  "application", "product"), ("PhotoMend", "TaskPilot", "the invoice tool", "MapTrail", "NoteNest"),
                  "The program is {value}.", "Program: {value}."),
            _Slot("version", ("version", "which version"), ("version 4.2", "version 11", "version 0.9.3",
                  "version 2024.1"), "I have {value}.", "Seen in {value}."),
            _Slot("symptom", ("what happens", "problem", "symptom", "error", "issue", "what goes wrong", "bug"),
                  ("it freezes for a minute", "the text turns upside down", "it deletes the last line",
                   "the screen stays black"), "What happens is that {value}.", "What happens: {value}."),
            _Slot("trigger", ("steps", "reproduce", "what were you doing", "how does it happen", "when does it happen",
                  "trigger"), ("I press undo twice", "I open a second window", "I print in landscape",
                  "I paste a table"), "It happens when {value}.", "Steps: {value}."),
            _Slot("system", ("operating system", "system", "device", "platform", "computer"),
                  ("Windows 11", "an iPad", "Ubuntu 24.04", "a Pixel 8"), "I use {value}.", "System: {value}."),
            _Slot("urgency", ("urgent", "urgency", "severity", "priority", "how serious"),
                  ("it blocks our release", "it is only annoying", "we lose data"), "As for urgency, {value}.",
                  "Severity: {value}."),
        ),
        "Please let me know if you need more.",
    ),
    _Kind(
        "job_ad", "a job advertisement",
        ("Write a job ad for us.", "We are hiring, can you write the advertisement?",
         "I need a text for a vacancy."),
        "We are hiring!",
        (
            _Slot("position", ("position", "role", "job title", "which job", "what job", "title"),
                  ("a pastry chef", "a night porter", "a data analyst", "a bicycle mechanic", "a choir leader"),
                  "We look for {value}.", "We are looking for {value}."),
            _Slot("place", _WHERE, _CITIES, "The job is in {value}.", "You work in {value}."),
            _Slot("hours", ("hours", "full time", "part time", "schedule", "how many hours"),
                  ("20 hours a week", "weekends only", "32 hours a week", "night shifts"),
                  "It is {value}.", "The hours: {value}."),
            _Slot("pay", ("pay", "salary", "wage", "compensation"), ("19 euros an hour", "3200 euros a month",
                  "52000 dollars a year", "16 pounds an hour"), "We pay {value}.", "We offer {value}."),
            _Slot("requirement", ("requirement", "requirements", "qualifications", "skills", "experience"),
                  ("a driving licence", "two years of practice", "fluent Spanish", "a hygiene certificate"),
                  "The one must is {value}.", "You bring {value}."),
            _Slot("contact", ("contact", "apply", "application", "reach"), _NAMES,
                  "People should write to {value}.", "Write to {value}."),
        ),
        "We look forward to your application.",
    ),
    _Kind(
        "complaint", "a letter of complaint to a shop",
        ("Help me complain to a shop.", "I want to write a complaint.", "Can you write a letter of complaint?"),
        "Dear Sir or Madam, I am not satisfied with my purchase.",
        (
            _Slot("product", ("product", "what did you buy", "which item", "item", "purchase"),
                  ("a blue kettle", "a garden chair", "hiking boots", "a desk lamp", "a winter coat"),
                  "I bought {value}.", "I bought {value} from you."),
            _Slot("date", (*_WHEN, "when did you buy"), _DAYS, "I bought it on {value}.", "That was on {value}."),
            _Slot("fault", ("problem", "fault", "wrong", "issue", "defect", "what happened"),
                  ("the handle came off", "it smells of smoke", "one leg is too short", "the zip is stuck"),
                  "The problem is that {value}.", "Unfortunately {value}."),
            _Slot("order number", ("order number", "receipt", "reference", "invoice"),
                  ("A-3391", "77-1204", "K5508", "2231-B"), "The order number is {value}.", "Order number: {value}."),
            _Slot("wish", ("what do you want", "resolution", "refund", "replacement", "expect", "outcome"),
                  ("a full refund", "a new one", "a repair at your cost", "half the price back"),
                  "I want {value}.", "I ask for {value}."),
            _Slot("deadline", ("deadline", "by when", "how soon", "how long"), ("within ten days", "by the end of May",
                  "before Christmas"), "They should do it {value}.", "Please settle this {value}."),
        ),
        "Yours faithfully",
    ),
    _Kind(
        "rental_ad", "an advertisement for a flat to let",
        ("Write an ad for my flat.", "I want to let my flat, can you write the ad?",
         "Can you write a rental advertisement?"),
        "Flat to let",
        (
            _Slot("size", ("size", "how big", "how large", "rooms", "bedrooms"), ("two rooms", "54 square metres",
                  "three bedrooms", "a studio"), "It has {value}.", "The flat: {value}."),
            _Slot("street", (*_WHERE, "street", "area", "neighbourhood"), ("Canal Street", "Birch Road",
                  "Station Square", "Vine Hill"), "It is on {value}.", "It lies on {value}."),
            _Slot("rent", ("rent", "price", "how much", "cost"), ("870 euros a month", "1100 dollars a month",
                  "640 pounds a month"), "The rent is {value}.", "The rent is {value}."),
            _Slot("start", ("available", "when", "from when", "move in", "date"), ("1 April", "15 September",
                  "1 December", "mid June"), "It is free from {value}.", "Free from {value}."),
            _Slot("extra", ("features", "amenities", "special", "balcony", "parking", "extra", "furnished"),
                  ("a south balcony", "a bicycle cellar", "a tiled stove", "a shared garden"),
                  "It comes with {value}.", "It comes with {value}."),
            _Slot("rule", ("pets", "rules", "smoking", "restrictions"), ("no smoking", "cats are welcome",
                  "no drums"), "And {value}.", "Please note: {value}."),
        ),
        "Call me for a visit.",
    ),
    _Kind(
        "thank_you", "a thank-you note",
        ("Write a thank-you note for me.", "I want to thank somebody, can you write it?",
         "Can you write a note of thanks?"),
        "Thank you!",
        (
            _Slot("recipient", ("who", "recipient", "whom", "name"), _NAMES, "It is for {value}.", "Dear {value},"),
            _Slot("gift", ("what for", "gift", "what did they", "reason", "thanking", "why"),
                  ("the hand-knitted scarf", "the lift to the airport", "the box of pears", "watering my plants",
                   "the spare key"), "I am grateful for {value}.", "thank you so much for {value}."),
            _Slot("occasion", ("occasion", "event", "when"), ("my move", "the long weekend", "my operation",
                  "the spring fair"), "It was about {value}.", "It helped me with {value}."),
            _Slot("detail", ("detail", "memory", "favourite", "moment", "personal", "story"),
                  ("the children loved it", "I laughed all evening", "it saved my week", "it fits perfectly"),
                  "You can say that {value}.", "I must tell you that {value}."),
            _Slot("plan", ("plan", "next", "return", "invite", "meet"), ("dinner at my place", "a walk by the lake",
                  "a game of chess"), "I would like to offer {value}.", "May I offer you {value}?"),
            _Slot("signature", ("sign", "signature", "your name", "from whom"), ("Jo and Kim", "the whole team",
                  "Your neighbour Ada"), "It is signed {value}.", "{value}"),
        ),
        "Warm regards",
    ),
    _Kind(
        "meeting", "an e-mail that calls a meeting",
        ("Write an e-mail to call a meeting.", "I need to invite my colleagues to a meeting.",
         "Can you write a meeting request?"),
        "Dear colleagues, let us meet.",
        (
            _Slot("topic", ("topic", "about", "purpose", "agenda", "subject", "discuss"),
                  ("the roof repair", "the summer schedule", "the new logo", "next year's budget", "the audit"),
                  "It is about {value}.", "We talk about {value}."),
            _Slot("date", _WHEN, _DAYS, "It is on {value}.", "It is on {value}."),
            _Slot("time", _TIME, _TIMES, "We meet at {value}.", "We begin at {value}."),
            _Slot("room", (*_WHERE, "room", "online", "link"), ("room 3B", "the canteen", "the video room",
                  "the roof terrace"), "It is in {value}.", "We meet in {value}."),
            _Slot("length", ("how long", "duration", "length"), ("45 minutes", "two hours", "half an hour"),
                  "It takes {value}.", "It takes {value}."),
            _Slot("preparation", ("prepare", "preparation", "bring", "read", "beforehand"),
                  ("the draft contract", "last month's figures", "three ideas each"),
                  "They should prepare {value}.", "Please prepare {value}."),
        ),
        "Kind regards",
    ),
    _Kind(
        "lesson", "a plan for a lesson",
        ("Plan a lesson for me.", "I teach tomorrow, can you write a lesson plan?", "Can you make a lesson plan?"),
        "Lesson plan",
        (
            _Slot("subject", ("subject", "topic", "what do you teach", "about", "which lesson"),
                  ("fractions", "the water cycle", "the French Revolution", "haiku", "electric circuits"),
                  "It is about {value}.", "Subject: {value}."),
            _Slot("class", ("grade", "class", "age", "level", "how old", "students", "who"),
                  ("grade 4", "grade 7", "ten-year-olds", "adult beginners"), "They are {value}.", "For {value}."),
            _Slot("length", ("how long", "duration", "length", "minutes"), ("45 minutes", "90 minutes",
                  "20 minutes"), "I have {value}.", "It takes {value}."),
            _Slot("material", ("material", "materials", "equipment", "resources", "tools"),
                  ("coloured paper", "a globe", "twelve tablets", "old newspapers"), "I have {value}.",
                  "We use {value}."),
            _Slot("goal", ("goal", "objective", "learn", "outcome", "aim"), ("they can explain it to a friend",
                  "they draw it from memory", "they write one page"), "In the end {value}.", "In the end {value}."),
            _Slot("homework", ("homework", "assignment", "follow up"), ("a short video", "five exercises",
                  "an interview at home"), "The homework is {value}.", "Homework: {value}."),
        ),
        "Good luck with the class!",
    ),
)  # fmt: skip


def offline_tasks(split: str = "train", *, seed: int = 0) -> list[Task]:
    """Short texts to write (invitations, orders, bug reports, ...) with facts that the user tells when asked.

    For the user `agenda` and the judge `fact_coverage`. 192 tasks to train on and 48 to test on.

    The same seed gives the same tasks, the ten kinds in turn; no two tasks of a seed, within or across the splits,
    have the same facts. Each has an agenda for `AgendaUser` and `fact_coverage`, and a reference text that holds every
    fact.
    """
    if split not in SPLITS:
        raise ConfigError(f"the offline tasks have no split {split!r}: use train or test{nearest(split, SPLITS)}")
    tasks: dict[str, list[Task]] = {name: [] for name in SPLITS}
    seen: set[tuple[str, ...]] = set()
    attempts = count()
    for name, size in SPLITS.items():
        while len(tasks[name]) < size:
            index = len(tasks[name])
            task, values = _make(_KINDS[index % len(_KINDS)], f"offline-{name}-{index:03d}", seed, next(attempts))
            if values not in seen:
                tasks[name].append(task)
            seen.add(values)
    return tasks[split]


def _make(kind: _Kind, task_id: str, seed: int, attempt: int) -> tuple[Task, tuple[str, ...]]:
    chance = random.Random(derive_seed(seed, "offline", task_id, attempt))
    slots = sorted(chance.sample(kind.slots, chance.randint(3, 6)), key=kind.slots.index)
    values = [chance.choice(slot.values) for slot in slots]
    opening = chance.choice(kind.openings)
    facts: list[dict[str, Any]] = [
        {
            "name": slot.name,
            "value": value,
            "tell": slot.tell.format(value=value),
            "ask": list(slot.ask),
            "mistakes": [other for other in slot.values if other != value],
        }
        for slot, value in zip(slots, values, strict=True)
    ]
    wishes = "; ".join(f"the {slot.name}: {value}" for slot, value in zip(slots, values, strict=True))
    lines = [slot.line.format(value=value) for slot, value in zip(slots, values, strict=True)]
    task = Task(
        id=task_id,
        kind=kind.name,
        goal=f"You want {kind.what}. The finished text must contain {wishes}.",
        reference="\n".join([kind.greeting, *lines, kind.ending]),
        metadata={"agenda": {"opening": opening, "facts": facts}},
    )
    return task, (kind.name, *values)
