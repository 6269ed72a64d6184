"""Rules that find questions and drafts in plain text. No model is needed."""

import re

_REQUESTS = re.compile(
    r"\b(tell me|let me know|could you (share|provide|give)|can you (share|provide|give)|please (share|provide|specify"
    r"|clarify|confirm)|i need to know|i would need|i'd need|i'd like to know|what|when|where|who|which|how)\b"
)
_OPEN_REQUESTS = re.compile(
    r"\b(details?|specifics?|more information|more about|anything else|something else|tell me more|preferences?"
    r"|requirements?|in mind|specific|particular)\b"
)
_OFFERS = re.compile(
    r"\b(let me know (if|whether|what you think|how)|(any|other|more|further) questions|(can|may|could|how can) i "
    r"(help|assist)|help you with|anything else (i|we) can|feel free|would you like me to|do you want me to|shall i"
    r"|(does|do|is|are) (this|that|these|it) (help|work|look|sound|make sense|answer|clear|ok|okay|what you)"
    r"|would you like (any |some )?(more|other|further)|what do you think"
    r"|is there anything else)\b"
)
_HEADING = re.compile(r"#.*|\*\*[^*]*\*\*:?|__[^_]*__:?")
_DRAFT_WORDS = 20
"""A message with at least this many words outside its questions is a draft."""


def questions(message: str) -> list[str]:
    """Return the message's sentences that ask for something: with a "?" or a request such as "please tell me"."""
    return [sentence for sentence in _sentences(message) if _is_question(sentence)]


def asks(message: str) -> bool:
    """Return whether the message asks the user for something.

    Offers of help ("Shall I change it?"), courtesies ("Let me know if it helps"), code and headings do not count. In a
    draft only the last sentence counts, since the draft's own questions are not addressed to the user.
    """
    prose = re.sub(r"```.*?(```|\Z)", " ", message, flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not _HEADING.fullmatch(line.strip())]
    sentences = [sentence for line in lines for sentence in _sentences(line)]
    if is_draft(prose):
        sentences = sentences[-1:]
    return any(_is_question(sentence) and not _OFFERS.search(sentence.lower()) for sentence in sentences)


def is_open_question(question: str) -> bool:
    """Return whether a question asks for no particular fact ("any other details?")."""
    return bool(_OPEN_REQUESTS.search(question.lower()))


def is_draft(message: str) -> bool:
    """Return whether the message is a draft: 20 words or more besides its questions."""
    rest = " ".join(sentence for sentence in _sentences(message) if not _is_question(sentence))
    return len(rest.split()) >= _DRAFT_WORDS


def _is_question(sentence: str) -> bool:
    if sentence.rstrip("*_\"')").endswith(("?", "？")):
        return True
    match = _REQUESTS.search(sentence.lower())
    return bool(match and len(match.group(0).split()) > 1)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]
