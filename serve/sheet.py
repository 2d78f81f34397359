"""Style and picture frame of the duplicates' gallery."""

from __future__ import annotations

from ..embed.thumbnails import Thumbnail
from ..webpage import escape, user_text

__all__ = ["STYLE", "frame"]

STYLE = """
.grid {
  list-style: none; margin: clamp(1rem, 2.5vw, 2rem) 0 0; padding: 0; display: grid; gap: clamp(.75rem, 1.6vw, 1.25rem);
  grid-template-columns: repeat(auto-fill, minmax(min(15.5rem, 100%), 1fr));
}
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem; overflow: hidden; box-shadow: var(--shadow);
  display: flex; flex-direction: column; break-inside: avoid; min-width: 0;
}
.frame { position: relative; aspect-ratio: 4 / 3; background: var(--well); display: grid; place-items: center; }
.frame img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.rank {
  position: absolute; inset: .55rem auto auto .55rem; min-width: 1.7rem; padding: 0 .45rem; border-radius: 1rem;
  background: rgb(10 16 22 / 72%); color: #fff; font-size: .76rem; font-weight: 600; line-height: 1.7rem; text-align: center;
}
.problem { color: var(--soft); font-size: .82rem; text-align: center; padding: 1rem 1.5rem; overflow-wrap: anywhere; }
.problem svg { display: block; margin: 0 auto .5rem; width: 2.4rem; height: 2.4rem; opacity: .55; }
.meter { height: 3px; background: var(--line); }
.meter i { display: block; height: 100%; background: var(--accent); }
.facts { padding: .75rem .9rem .9rem; display: flex; flex-direction: column; gap: .45rem; flex: 1; min-width: 0; }
.head { display: flex; justify-content: space-between; gap: .75rem; align-items: baseline; min-width: 0; }
.id { font-weight: 600; overflow-wrap: anywhere; min-width: 0; }
.score { color: var(--accent); font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
.said {
  margin: 0; max-height: 12em; overflow-y: auto; overflow-wrap: anywhere; text-align: start; unicode-bidi: plaintext;
}
.chips { display: flex; flex-wrap: wrap; gap: .3rem; }
.path { margin-top: auto; padding-top: .2rem; color: var(--soft); font-size: .76rem; overflow-wrap: anywhere; }
.none { color: var(--soft); padding: 4rem 0; text-align: center; }
@media (max-width: 30rem) {
  .grid { grid-template-columns: 1fr; }
}
"""

_NO_PICTURE = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.5" aria-hidden="true">'
    '<rect x="3" y="4" width="18" height="16" rx="2"/><path d="m4 18 5-6 3.5 4 2.5-3 5 5"/><path d="M3 3l18 18"/></svg>'
)


def frame(picture: Thumbnail, alt: object) -> str:
    """Make the inside of a ``.frame``: the picture, or why there is none."""
    if picture.uri is None:
        return f'<div class="problem">{_NO_PICTURE}{user_text(picture.problem, limit=160)}</div>'
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="{picture.uri}" {size} alt="{escape(alt)}" loading="lazy" decoding="async">'
