"""The shell of every page that icehouse writes, and how strangers' texts get into it.

A page is one file that needs nothing else: style inside, pictures as data, and no script but one of icehouse's own,
known to the browser by its hash. Its content security policy forbids the rest, so that even a text which slipped through
unescaped could load and run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

from .errors import UsageError
from .store.files import publish

__all__ = ["chip", "escape", "page", "user_text", "write_page"]

# What turns the direction of everything after it: a file "gpj.exe" dressed up as "exe.jpg", a page read backwards. Marks
# for single characters (U+200E, U+200F) stay, since Arabic and Hebrew need them and can do no such harm.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_UNSAFE = re.compile("[\x80-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f6f8fa; --card: #ffffff; --ink: #1b242c; --soft: #5b6873; --line: #dde4ea; --well: #e9eef3;
  --accent: #0b6e99; --accent-ink: #ffffff; --warn: #9a5b00;
  --shadow: 0 1px 2px rgb(20 40 60 / 8%), 0 4px 14px rgb(20 40 60 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #10161b; --card: #182027; --ink: #e6edf2; --soft: #94a3af; --line: #28333c; --well: #0b1014;
    --accent: #63c1e8; --accent-ink: #07202c; --warn: #e0a94e; --shadow: none;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; padding: clamp(1rem, 3vw, 2.5rem); background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main, header, footer { max-width: 96rem; margin-inline: auto; }
h1 {
  font-size: clamp(1.35rem, 3.4vw, 2rem); line-height: 1.2; margin: 0 0 .35rem; text-wrap: balance; overflow-wrap: anywhere;
}
.kicker {
  color: var(--accent); font-weight: 600; font-size: .8rem; letter-spacing: .08em; text-transform: uppercase;
  margin: 0 0 .3rem;
}
.about { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
code, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .86em; }
.chip {
  display: inline-block; max-width: 100%; padding: .08rem .5rem; border-radius: 1rem; background: var(--well);
  font-size: .76rem; line-height: 1.5; overflow-wrap: anywhere;
}
.chip b { color: var(--soft); font-weight: 500; margin-right: .3em; }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .8rem; }
@media print { body { background: none; padding: 0; } }
"""


def page(
    title: str, body: str, *, kicker: str = "icehouse", about: str = "", style: str = "", script: str = ""
) -> str:
    """Make a whole page.

    Parameters
    ----------
    title : str
        Plain text: the heading, and the name of the tab.
    body : str
        HTML, already escaped where it holds anything from outside.
    kicker : str, default "icehouse"
        Plain text above the heading.
    about : str, default ""
        HTML below the heading, already escaped.
    style : str, default ""
        CSS for what this page alone has. Colours come as variables (``--ground``, ``--card``, ``--ink``, ``--soft``,
        ``--line``, ``--well``, ``--accent``, ``--accent-ink``, ``--warn``), so that light and dark both work.
    script : str, default ""
        JavaScript, run after the body was read. Of the package's own making, never from outside: nothing else runs.

    Returns
    -------
    str
        Without surrogates, so that it can be written as UTF-8.
    """
    heading = f'<p class="about">{about}</p>' if about else ""
    policy, tail = _POLICY, ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        tail = f"<script>{script}</script>\n"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<header>
<p class="kicker">{escape(kicker)}</p>
<h1>{user_text(title)}</h1>
{heading}
</header>
<main>
{body}
</main>
{tail}</body>
</html>
"""


def escape(value: object) -> str:
    """Make any value harmless in HTML text and in a quoted attribute.

    Besides HTML's own five characters, those go that would turn the reading direction, are no text at all (control
    characters, lone surrogates of undecodable file names) or end a line unseen; a visible sign stands where they were.
    """
    text = _TURNING.sub(lambda match: f"[U+{ord(match[0]):04X}]", str(value))
    text = _CONTROL.sub(lambda match: "␡" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), text)
    return html.escape(_UNSAFE.sub("\ufffd", text), quote=True)


def user_text(value: object, *, limit: int | None = None, tag: str = "bdi", css: str = "") -> str:
    """Wrap a stranger's text in an element of its own reading direction, cut after `limit` characters."""
    text = str(value)
    if limit is not None and len(text) > limit:
        text = text[:limit].rstrip() + "…"
    name = f' class="{escape(css)}"' if css else ""
    return f'<{tag} dir="auto"{name}>{escape(text)}</{tag}>'


def chip(name: str, value: object) -> str:
    """Make a small pill that shows a value and what it is of."""
    return f'<span class="chip"><b>{user_text(name, limit=40)}</b>{user_text(value, limit=80)}</span>'


def write_page(path: str | Path, text: str) -> Path:
    """Write a page as UTF-8.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    path = Path(path)
    data = text.encode()
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a terminal or a pipe
        else:
            with publish(path) as temp:
                temp.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path
