"""How reports and explanations look."""

from __future__ import annotations

from . import items, svg

__all__ = ["EXPLAIN", "REPORT"]

REPORT = (
    svg.STYLE
    + items.STYLE
    + """
main > section { margin: 2.2rem 0 0; }
h2 { font-size: 1.25rem; margin: 0 0 .6rem; line-height: 1.25; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
section > p { max-width: 54rem; margin: .4rem 0 .8rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
nav.toc { display: flex; flex-wrap: wrap; gap: .3rem .5rem; margin: 1.2rem 0 0; font-size: .86rem; }
nav.toc a {
  padding: .25rem .75rem; border-radius: 1rem; border: 1px solid var(--line); background: var(--card);
  color: var(--accent);
  text-decoration: none;
}
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: .3rem; }
.hero { display: flex; flex-wrap: wrap; gap: .9rem; margin: 1.4rem 0 0; padding: 0; }
.hero div {
  background: var(--card); border: 1px solid var(--line); border-radius: .9rem; padding: .8rem 1.1rem;
  box-shadow: var(--shadow);
  flex: 1 1 11rem; display: flex; flex-direction: column;
}
.hero dt { color: var(--soft); font-size: .8rem; order: 1; }
.hero dd { margin: 0; font-size: 1.75rem; font-weight: 680; line-height: 1.2; font-variant-numeric: tabular-nums; }
.hero small { order: 2; color: var(--soft); font-size: .8rem; }
.data {
  border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: min(100%, 24rem);
}
.data th, .data td {
  text-align: left; padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: middle;
}
.data thead th { color: var(--soft); font-weight: 500; font-size: .8rem; vertical-align: bottom; }
.data .num { text-align: right; white-space: nowrap; }
.data td:first-child, .data th:first-child { overflow-wrap: anywhere; min-width: 8.5rem; max-width: 18rem; }
.data .of { white-space: nowrap; }
.span {
  display: block; position: relative; width: 9.5rem; height: 1rem; background: var(--well); border-radius: .5rem;
}
.span i {
  position: absolute; inset-block: .3rem; left: calc(var(--low) * 100%);
  width: calc((var(--high) - var(--low)) * 100%);
  min-width: 2px; background: var(--hue0); opacity: .45; border-radius: .2rem;
}
.span b {
  position: absolute; inset-block: .1rem; left: calc(var(--at) * 100% - 2px); width: 4px; background: var(--hue0);
  border-radius: 2px;
}
.span.zero::after {
  content: ""; position: absolute; inset-block: -.15rem; left: 50%; border-left: 1px dashed var(--soft);
}
.kv {
  display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.2rem; margin: 0;
  font-size: .88rem;
}
.kv dt { color: var(--soft); }
.kv dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
pre.cli {
  background: var(--well); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem;
  white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .84rem; margin: .4rem 0 0;
}
.asked {
  display: grid; gap: .9rem; grid-template-columns: minmax(0, 15rem) minmax(0, 1fr); align-items: start;
  margin: 0 0 1.4rem;
}
.asked .cards { grid-template-columns: repeat(auto-fill, minmax(min(9.5rem, 100%), 1fr)); gap: .7rem; }
.asked > .card { border: 2px solid var(--accent); }
.asked .cards .said { max-height: 6em; font-size: .8rem; }
.notes { margin: 1rem 0 0; padding-left: 1.2rem; color: var(--soft); font-size: .86rem; max-width: 60rem; }
.notes li { overflow-wrap: anywhere; }
@media (max-width: 42rem) {
  .asked { grid-template-columns: 1fr; }
  .asked .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .kv { grid-template-columns: 1fr; gap: 0; }
  .kv dd { margin-bottom: .5rem; }
  .span { width: 6rem; }
}
@media print { nav.toc { display: none; } section { break-inside: avoid-page; } }
"""
)

EXPLAIN = (
    REPORT
    + """
.explained { margin: 2rem 0 0; padding: 1.2rem clamp(.8rem, 2vw, 1.5rem) 1.4rem; border: 1px solid var(--line);
  border-radius: 1rem;
  background: color-mix(in srgb, var(--card) 55%, var(--ground)); }
.explained > h2 { overflow-wrap: anywhere; }
.halves { display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
.halves > div { min-width: 0; }
.photos { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fit, minmax(min(13rem, 100%), 1fr)); }
.photos figure { margin: 0; min-width: 0; max-width: 30rem; }
.photos figcaption { color: var(--soft); font-size: .8rem; margin: .25rem 0 0; }
.photo {
  position: relative; overflow: hidden; border-radius: .6rem; background: var(--well);
  max-width: 100%;
}
.photo img { display: block; width: 100%; height: 100%; }
.photo.mapped img { filter: grayscale(1) brightness(1.08) contrast(.85); }
.photo .heat, .photo.mapped .heat { position: absolute; image-rendering: pixelated; filter: none; }
.bars { display: grid; grid-template-columns: max-content minmax(4rem, 1fr) max-content; gap: .35rem .8rem;
  align-items: center;
  font-size: .9rem; font-variant-numeric: tabular-nums; }
.bars .name { overflow-wrap: anywhere; max-width: 12rem; }
.bars .num { text-align: right; white-space: nowrap; }
.bar { position: relative; height: 1.05rem; border-radius: .3rem; background: var(--well); overflow: hidden; }
.bar i {
  position: absolute; inset-block: 0; left: calc(var(--from) * 100%); width: calc(var(--length) * 100%);
  background: var(--hue0);
}
.bar i.less { background: var(--hue1); }
.bar i.rest { background: var(--soft); opacity: .6; }
.words { margin: .3rem 0 0; line-height: 2; unicode-bidi: plaintext; overflow-wrap: anywhere; }
.words span {
  border-radius: .3rem; padding: .12em .08em;
  background: color-mix(in srgb, var(--mark) calc(var(--level) * 65%), transparent);
}
.words .for, .key.for { --mark: var(--hue0); }
.words .against, .key.against { --mark: var(--hue1); }
.words .seen { --mark: #d99000; }
.words .special { padding: .12em .3em; font-size: .8em; }
.key {
  display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; background: var(--mark); margin-right: .3rem;
  vertical-align: -.08rem;
}
.scale {
  display: inline-block; width: 7rem; height: .7rem; border-radius: .3rem; vertical-align: -.05rem;
  margin: 0 .35rem;
}
.explained .cards { grid-template-columns: repeat(auto-fill, minmax(min(10rem, 100%), 1fr)); }
@media (max-width: 42rem) { .explained .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
"""
)
