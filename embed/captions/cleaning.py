"""Answer cleaning by rule: reasoning, chat tokens, code fences and preambles stripped from what a model said.

Rules are cheap and cautious: what is stripped is never a caption's own words as far as patterns can tell, and the table
keeps the answer as it came in the column ``raw``. Every rule is linear in the answer's length.
"""

from __future__ import annotations

import re

__all__ = ["CLEANING", "MAX_CHARS", "clean_answer", "json_part"]

#: Version of the rules, part of a table's provenance.
CLEANING = "v1"

#: Most characters of an answer that are kept; no picture needs as many.
MAX_CHARS = 32_768

_TAGS = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis)"
# DeepSeek, Qwen, GLM; Magistral; Kimi; Seed; OpenThinker; gpt-oss's channels, with and without its tokens.
_REASONING = re.compile(
    rf"(?P<open><{_TAGS}>|\[think\]|◁think▷|<\|(?:begin_of_thought|start_thinking|think)\|>"
    r"|(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b[^<]{0,40}<\|message\|>|\Aanalysis(?=[A-Z][a-z]))"
    rf"|(?P<close></{_TAGS}>|\[/think\]|◁/think▷|<\|(?:end_of_thought|end_thinking|/think)\|>"
    r"|<\|channel\|>final\b[^<]{0,40}<\|message\|>|assistantfinal(?=[A-Z]))",
    re.IGNORECASE,
)
# What opens the assistant's turn, and what ends it or opens another one.
_ROLE = r"(?:assistant|model|gpt|bot)"
_OPENING = re.compile(
    rf"\s*(?:(?:<\|im_start\|>\s*{_ROLE}\b|<\|start_header_id\|>\s*{_ROLE}\s*<\|end_header_id\|>|<start_of_turn>\s*{_ROLE}\b"
    rf"|<\|start\|>\s*{_ROLE}\b|<\|(?:assistant|bot|begin_of_text|bos)\|>|<｜Assistant｜>|<｜begin▁of▁sentence｜>"
    r"|\[INST\][^\[]*\[/INST\]|\[/INST\]|<s>|<bos>|<\|message\|>|(?:ASSISTANT|Assistant):)\s*)+"
)
_TURN = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|eot|end|end_of_text|endoftext|endofchunk|end_of_turn|return|eos|user|system"
    r"|start|start_header_id|observation)\|>|</s>|<(?:end_of_turn|start_of_turn|eos|end_of_utterance|endofanswer)>"
    r"|\[/?INST\]|<｜(?:end▁of▁sentence|User)｜>",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"<[|｜][\w▁/:.-]{1,40}[|｜]>|</?(?:s|bos|eos|pad|unk|image|img|answer|final|response|caption|output)>"
    r"|<(?:start|end)_of_image>|<fake_token_around_image>|<0x[0-9A-F]{2}>",
    re.IGNORECASE,
)

_EAGER = r"(?:sure(?: thing)?|certainly|of course|gladly|with pleasure|i(?:['’]d| would) be (?:happy|glad) to(?: help)?)"
_ASSENT = (
    rf"(?:{_EAGER}|absolutely|okay|ok|alright|all right|got it|understood|great|yes|no problem|klar|gerne|natürlich"
    r"|selbstverständlich|claro(?: que sí)?|por supuesto|bien sûr|d['’]accord|certo|com certeza|好的|当然(?:可以)?)"
)
_NOUN = (
    r"(?:descriptions?|captions?|alt[- ]?text|alternative text|summary|overview|answer|response|transcription|sentences?"
    r"|explanation|json|output|what (?:i (?:can )?see|it shows|is (?:shown|visible)|the (?:image|picture|photo|meme) \w+)"
    r"|(?:bild)?beschreibung|bildunterschrift|alternativtext|légende|descripción|leyenda|descrição|legenda|descrizione"
    r"|didascalia)"
)
_HERE = (
    r"(?:here(?:['’]s| is| are)|below (?:is|are)|this is|(?:the )?following (?:is|are)|hier (?:ist|sind|folgt)|voici|voilà"
    r"|aquí (?:tienes|está|hay)|aqui está|ecco|segue)"
)
_PLAIN = r'[^\n:.!?"“”]'  # within a sentence that quotes nothing
_OF = (
    r"(?:,? (?:of|for|in|on|that|which|you|based|as|about|requested|generated|provided|from|to|with|suitable|describing"
    rf"|below|de[rsl]?|für|zum|vom|pour|para|per|dell\w*|d[oa]s?)\b{_PLAIN}{{0,110}}"
    rf"|\s*\({_PLAIN}{{0,60}}\))?\s*"
)
_PREAMBLES = (
    # "Sure! Here is a detailed description of the image:"
    re.compile(
        rf"(?:{_ASSENT}\b[^\n:]{{0,60}}?[!.,:;–—-]+\s*)?{_PLAIN}{{0,60}}?\b{_HERE}\b{_PLAIN}{{0,120}}?\b{_NOUN}\b{_OF}:",
        re.IGNORECASE,
    ),
    # "Certainly, here you go:", "The caption could be:", "I'd describe the image as follows:"
    re.compile(
        rf"(?:{_ASSENT}\b[^\n:]{{0,60}}?[!.,:;–—-]+\s*)?(?:here (?:you go|it is|we go)[!.:,]+(?=\s)"
        rf"|(?:(?:the|a|an|my|this|one) )?(?:\w+ ){{0,3}}?{_NOUN}\b{_PLAIN}{{0,60}}?\b"
        r"(?:as follows|(?:could|would|might|can) be)\s*:"
        rf"|i(?:['’]d| would| can|['’]ll| will) (?:describe|caption|summari[sz]e)\b{_PLAIN}{{0,60}}?\bas(?: follows)?\s*:)",
        re.IGNORECASE,
    ),
    re.compile(r"(?:(?:好的|当然(?:可以)?)[，,。!！]\s*)?(?:以下是|这是)[^\n：:]{0,80}[：:]"),
    # "Certainly! A cat."
    re.compile(rf"{_EAGER}(?: with that)?[!.,]+(?=\s)", re.IGNORECASE),
    # "**Caption:** A cat.", "## Description"
    re.compile(
        rf"(?:\*\*|#{{1,6}} )?(?:(?:image|picture|photo|visual|detailed|short|brief|generated|final|suggested|the) ){{0,3}}"
        rf"(?:description|caption|alt[- ]?text|answer|response|summary|output|{_NOUN})"
        r"(?: of the (?:image|picture|photo))?(?:\*\*)?(?::(?:\*\*)?|(?<=\*\*)(?=\n))",
        re.IGNORECASE,
    ),
    re.compile(
        rf"#{{1,6}} (?:(?:image|picture|photo|detailed) )?{_NOUN}(?: of the (?:image|picture|photo))?(?=\n)",
        re.IGNORECASE,
    ),
)
_LANGUAGE = re.compile(
    r"[A-Za-z0-9_+-]{0,20}[ \t]*\n|(?:json|text|txt|markdown|md|plaintext|html|yaml)\s", re.IGNORECASE
)
_PAIRS = (("**", "**"), ('"', '"'), ("“", "”"), ("«", "»"), ("„", "“"), ("*", "*"), ("`", "`"))
_QUOTES = "\"'`“”‘’«»„"
_QUOTING = re.compile(rf"\w [{_QUOTES}]")
_GOES_ON = re.compile(r" [a-zà-ÿ]")
_ROUNDS = 5


def clean_answer(text: str) -> tuple[str, bool]:
    r"""Strip from an answer what is no part of it.

    Parameters
    ----------
    text : str
        What the model said.

    Returns
    -------
    caption : str
        Without reasoning (also where only its end is marked), chat tokens and what follows the end of the turn, a fence
        around all of it, and preambles such as "Sure! Here is a description:". Of an answer that is nothing else, "".
    unclosed : bool
        Whether it ended amid its reasoning.

    Examples
    --------
    >>> clean_answer("Let me look.</think> Sure! Here is a caption:\n\n**A ginger cat.**<|im_end|>")
    ('A ginger cat.', False)
    >>> clean_answer("<think>A cat, or")
    ('', True)
    """
    text, unclosed = _without_reasoning(text)
    text = _without_tokens(text).strip()
    for _ in range(_ROUNDS):
        shorter = _without_wrapping(_without_fence(_without_preamble(text)))
        if shorter == text or not shorter:
            break
        text = shorter
    return text, unclosed


def json_part(text: str) -> str:
    """From the first brace of an answer to the last: its JSON, whatever was said around it."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _without_reasoning(text: str) -> tuple[str, bool]:
    kept: list[str] = []
    at, inside = 0, False
    for mark in _REASONING.finditer(text):
        if _is_quoted(text, mark):
            continue
        if mark["open"] and not inside:
            kept.append(text[at : mark.start()])
            inside = True
        elif mark["close"]:
            if not inside:
                kept.clear()  # its beginning is in the prompt, as some chat templates have it
            inside = False
            at = mark.end()
    if not inside:
        kept.append(text[at:])
    return "".join(kept), inside


def _is_quoted(text: str, mark: re.Match[str]) -> bool:
    """Whether a mark of reasoning is something that the picture shows: in quotes, or amid a sentence, after a word."""
    before, after = text[max(0, mark.start() - 3) : mark.start()], text[mark.end() : mark.end() + 2]
    if _QUOTING.fullmatch(before) and after[:1] in tuple(_QUOTES):
        return True
    # What is said after reasoning begins with a capital, a brace, a line.
    return (
        bool(mark["close"])
        and before[-2:-1].isalnum()
        and before[-1:] == " "
        and _GOES_ON.match(after) is not None
    )


def _without_tokens(text: str) -> str:
    found = _OPENING.match(text)
    at = start = found.end() if found else 0
    end = len(text)
    for mark in _TURN.finditer(text, start):
        if _TOKEN.sub("", text[at : mark.start()]).strip():
            end = mark.start()
            break
        at = mark.end()
    text = text[start:end]
    # Marks that are left stand before the first word.
    return _TOKEN.sub(" ", _TURN.sub(" ", text)) if "<" in text or "[" in text else text


def _without_preamble(text: str) -> str:
    for preamble in _PREAMBLES:
        found = preamble.match(text)
        if found and (rest := text[found.end() :].strip()):
            # "**Caption:** ..." and "**Here is a caption:** ..." leave half of their emphasis.
            text = rest.removeprefix("**").strip() if rest.count("**") % 2 else rest
    return text


def _without_fence(text: str) -> str:
    if not text.startswith("```"):
        return text
    body = text[3:]
    language = _LANGUAGE.match(body)
    body = body[language.end() :] if language else body
    end = body.find("```")
    return (body if end < 0 else body[:end]).strip()


def _without_wrapping(text: str) -> str:
    for opening, closing in _PAIRS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner and closing not in inner:
                return inner.strip()
    return text
