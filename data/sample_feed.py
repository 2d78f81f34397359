"""The sample feed: some hundred crisis posts, made up from a seed, with the truth about each written beside them.

A class is what picture and text say *together* (`CLASSES`): either alone leaves two classes open. Texts are calls for help
or offers of it, and remarks, in eight languages, as noisy as a feed. A text never says what its picture shows. "Mill Lane
this morning" goes with a drowned street and with a lawn; "blankets needed at the town hall" comes from people in ruins and
from a collection point. Half of the truth is in the picture.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import SourceError
from .sample_scenes import SCENES, paint
from .transforms import TRANSFORMS, encode


class Event(NamedTuple):
    """A made-up disaster: what it is, where, and the tags it goes by."""

    hazard: str
    town: str
    tags: tuple[str, ...]


EVENTS: dict[str, Event] = {
    "dunmere_flood": Event("flood", "Dunmere", ("#DunmereFlood", "#Dunmere", "#flood", "#PrayForDunmere")),
    "corvane_earthquake": Event("earthquake", "Corvane", ("#CorvaneQuake", "#Corvane", "#earthquake")),
    "halden_wildfire": Event("wildfire", "Halden Ridge", ("#HaldenFire", "#HaldenRidge", "#wildfire")),
    "port_ellis_storm": Event(
        "storm", "Port Ellis", ("#StormAda", "#PortEllis", "#storm", "#PortEllisStrong")
    ),
}

#: Share of each language among the posts.
LANGUAGES = {"en": 0.825, "es": 0.04, "fr": 0.03, "pt": 0.025, "tr": 0.02, "id": 0.02, "hi": 0.02, "ar": 0.02}

_EMOJI = ("🙏", "😢", "💔", "🌍", "😮", "📷", "☔", "❤️", "👀", "🤷", "🕯️", "💪")
_NAMES = ("maria_k", "TomAtHome", "newsdesk_9", "lena.w", "the_real_jo", "ahmad77", "CityWatch", "priya_s")
_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"


def _phrase_book(text: str) -> dict[str, tuple[str, ...]]:
    """Read blocks of "kind: phrase | phrase | ..."."""
    blocks = re.findall(r"^ {8}(\w+): (.*(?:\n {10}\|.*)*)", text, re.MULTILINE)
    return {kind: tuple(re.split(r"\s+\| ", phrases)) for kind, phrases in blocks}


#: For each language the templates of calls, remarks and fillers, and what stands in their slots.
_PHRASES = {
    "en": _phrase_book("""
        place: Mill Lane | the town hall | St Mary's school | Harbour Street | the old market
          | the bus station | North Bridge | Orchard Road | the sports hall | Castle Square | the fire station
          | Elm Park | the railway crossing | Weaver Row | the community centre | Hillside Avenue | Ferry Quay
          | the college gym | Lower Dale | Chapel Hill | the allotments | Station Road | Tanner's Yard
        goods: blankets | drinking water | nappies and baby milk | warm clothes | torches and batteries
          | sleeping bags | tinned food | insulin | shovels and buckets | a generator | hot meals | tents
          | pet food | dry socks and boots | phone chargers | mattresses | fuel | clean towels
        time: this morning | at 6am | right now | tonight | since yesterday | at noon | an hour ago
          | on Tuesday | all night | just before dark | today | at the weekend | after breakfast
        who: my neighbour | my sister | an old couple | a family of five | our street | two students | my aunt
          | a young mother | three families | my grandparents | the choir | a teacher
        call: We need {goods} at {place}, please bring what you can
          | Please help: {who} at {place}, still without {goods}
          | Does anybody have {goods} for {place}? Please call {phone}
          | Volunteers wanted at {place} {time}, no experience needed
          | If you have a van or a boat please come to {place}
          | We are collecting {goods} at {place} until eight, every bit helps
          | I can offer a room near {place} to {who}, message me
          | Urgent: {who} near {place} waiting for help {time}, number is {phone}
          | Send help to {place} please, {who} cannot get out of the house alone
          | Drop off {goods} at {place} and we will take them to those who need them
          | We have {goods} to give away, come to {place} or call {phone}
          | Need hands at {place} {time}, also {goods} if you can spare any
          | {place} still short of {goods}. Who can bring some?
          | Please RT, {who} must have {goods} soon and nobody answers at {place}
          | {who} asked me to find {goods}, can you help? We are at {place}
          | {place}, four people, two of them over eighty. {phone}
          | Number for {place} is {phone}, somebody answers day and night | {goods} running low at {place}
          | Still waiting for someone to come to {place}
        remark: {place} {time} | This is what {place} looks like {time}
          | View from my window towards {place} {time} | Never seen {place} like this before
          | I walked past {place} {time} and could not stop staring | So this is {town} now. {place} {time}
          | {who} sent me this picture of {place} | Driving through {town}, {place} on the left
          | Photo of {place} taken by {who} {time} | Cannot believe this is {place}, I was there {time}
          | Remember {place}? It looks like this {time} | First light over {place}, could not sleep anyway
          | Somebody should paint this. {place} {time} | From {place} to the river in one picture, {time}
          | So many people brought {goods} to {place}, it was on the news {time}
          | Report on the help that came to {place}: {goods} for everybody, says the council
          | Back in the day they gave {goods} to {place} too, as {who} told me
        filler: Stay safe everyone. | My phone is at ten percent. | It is cold {time}.
          | Day {number} in {town}. | Love to all in {town}. | I have no words. | Same story {time}.
          | It is what it is. | Thinking of {town}. | Posting this for {who}. | Not sleeping much.
          | The dog is fine. | Roads are busy {time}.
    """),
    "es": _phrase_book("""
        place: la plaza mayor | la escuela | la calle del Río | el mercado | el puente viejo
        goods: agua potable | mantas | pañales | ropa de abrigo | medicinas | comida
        time: esta mañana | ahora mismo | hoy | desde ayer | anoche
        call: Necesitamos {goods} en {place}, por favor compartan | Se buscan voluntarios en {place} {time}
          | Estamos recogiendo {goods} en {place} para quien lo necesite
        remark: Así está {place} {time} | Foto hecha en {place} {time} | Nunca había visto {place} así
    """),
    "fr": _phrase_book("""
        place: la mairie | la gare | la rue des Écoles | le vieux pont | le gymnase | la place du marché
        goods: de l'eau potable | des couvertures | des couches | des vêtements chauds | des médicaments
        time: ce matin | en ce moment | aujourd'hui | depuis hier | cette nuit
        call: Nous cherchons {goods} pour {place}, merci de partager
          | On a besoin de bénévoles près de {place} {time}
          | Qui peut apporter {goods} ? Nous sommes devant {place}, tél. {phone}
        remark: Voilà {place} {time} | Photo prise devant {place} {time} | Je n'ai jamais vu {place} comme ça
    """),
    "pt": _phrase_book("""
        place: a praça central | a escola | a rua da Ponte | o ginásio | o mercado velho | a rodoviária
        goods: água potável | cobertores | fraldas | roupas quentes | remédios | alimentos
        time: hoje de manhã | agora | hoje | desde ontem | esta noite
        call: Precisamos de {goods} para levar até {place}, por favor compartilhem
          | Procuramos voluntários {time}, encontro: {place}
          | Estamos recebendo doações de {goods}. Local: {place}
        remark: Olha como está {place} {time} | Foto que tirei {time}: {place} | Nunca vi {place} desse jeito
    """),
    "tr": _phrase_book("""
        place: Belediye binası | Eski köprü | Çarşı meydanı | İstasyon caddesi | Spor salonu | İlkokul
        goods: içme suyu | battaniye | bebek bezi | kışlık giysi | ilaç | sıcak yemek
        time: bu sabah | şu anda | bugün | dünden beri | dün gece
        call: Acil {goods} lazım, adres: {place}. Lütfen paylaşın
          | Gönüllü arıyoruz, buluşma yeri: {place}, tel: {phone}
          | {goods} toplayıp ihtiyacı olanlara götürüyoruz. Teslim yeri: {place}
        remark: {place}, {time} böyle görünüyor | {time} çektiğim fotoğraf: {place}
          | Hiç böyle görmemiştim. {place}, {time} | Herkes {town} hakkında konuşuyor. {place}
    """),
    "id": _phrase_book("""
        place: balai kota | jembatan lama | pasar lama | jalan Stasiun | gedung olahraga | sekolah dasar
        goods: air minum | selimut | popok bayi | pakaian hangat | obat-obatan | makanan siap saji
        time: pagi ini | sekarang | hari ini | sejak kemarin | tadi malam
        call: Kami butuh {goods} di {place}, tolong sebarkan
          | Dicari relawan di {place} {time}, hubungi {phone}
          | Kami mengumpulkan {goods} di {place} untuk yang membutuhkan
        remark: Beginilah {place} {time} | Foto {place} yang saya ambil {time}
          | Belum pernah melihat {place} seperti ini | Pemandangan {place} dari jendela saya {time}
    """),
    "hi": _phrase_book("""
        place: टाउन हॉल | पुराना पुल | स्टेशन रोड | सरकारी स्कूल | पुराना बाज़ार | खेल मैदान
        goods: पीने का पानी | कंबल | दवाइयाँ | गर्म कपड़े | खाना | टॉर्च
        time: आज सुबह | अभी | आज | कल से | कल रात
        call: {goods} की ज़रूरत है, जगह: {place}। कृपया शेयर करें
          | स्वयंसेवक चाहिए, मिलने की जगह: {place}, फ़ोन {phone}
          | हम {goods} इकट्ठा कर रहे हैं, जमा करने की जगह: {place}
        remark: {place}, {time} का नज़ारा | {time} ली गई तस्वीर: {place}
          | ऐसा पहले कभी नहीं देखा। {place}, {time} | मेरी खिड़की से {place} ऐसा दिखता है, {time}
    """),
    "ar": _phrase_book("""
        place: مبنى البلدية | الجسر القديم | شارع المحطة | المدرسة | السوق القديم | الصالة الرياضية
        goods: مياه الشرب | البطانيات | حليب الأطفال | الملابس الدافئة | الأدوية | الطعام
        time: هذا الصباح | الآن | اليوم | منذ أمس | الليلة الماضية
        call: نحتاج إلى {goods} عند {place}، الرجاء النشر | مطلوب متطوعون عند {place} {time}، هاتف {phone}
          | ساعدونا من فضلكم، عائلات قرب {place} تنقصها {goods} | نجمع {goods} للمحتاجين عند {place}
        remark: هكذا يبدو {place} {time} | صورة من {place} {time} | لم أر {place} هكذا من قبل
    """),
}  # fmt: skip


def compose(rng: np.random.Generator, kind: str, event: str, language: str) -> tuple[str, str]:
    """Write one post of a kind ("call" or "remark"); return it as posted and as it was before the noise came in."""
    town, phrases = EVENTS[event].town, _PHRASES[language]
    sentence = _fill(rng, kind, town, phrases)
    if "filler" in phrases and rng.random() < 0.45:
        filler = _fill(rng, "filler", town, phrases)
        joined = sentence + ("" if sentence[-1] in "?!." else ".")
        sentence = f"{joined} {filler}" if rng.random() < 0.7 else f"{filler} {joined}"
    return _noisy(rng, sentence, EVENTS[event].tags), sentence


def edited(rng: np.random.Generator, text: str) -> str:
    """Repost a text with small edits that leave its meaning: credit, another link, case, an emoji."""
    bare = " ".join(word for word in text.split() if not word.startswith("http"))
    return (
        f"RT @{_one(rng, _NAMES)}: {bare}",
        f"{bare} (via @{_one(rng, _NAMES)}) {_link(rng)}",
        f"{_one(rng, _EMOJI)} {bare.rstrip('.!')}!!",
        f"{bare.upper() if rng.random() < 0.3 else bare} {_link(rng)}",
    )[int(rng.integers(4))]


def _one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _fill(rng: np.random.Generator, kind: str, town: str, phrases: dict[str, tuple[str, ...]]) -> str:
    values = {slot: _one(rng, options) for slot, options in phrases.items()}
    values |= {"phone": f"0{rng.integers(100, 999)} {rng.integers(1000, 9999)}", "town": town}
    text = values[kind].format(number=rng.integers(2, 30), **values)
    return text[0].upper() + text[1:]


def _link(rng: np.random.Generator) -> str:
    return "https://t.example/" + "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=10))


def _noisy(rng: np.random.Generator, text: str, tags: tuple[str, ...]) -> str:
    """Add what a feed adds, whatever the kind of text: tags, links, mentions, entities, emoji, shouting, slips."""
    case, swap, entity, end, tag, emoji, mention, link, retweet, broken = rng.random(10)
    if case < 0.2:
        text = text.upper() if case < 0.06 else text.lower()
    if swap < 0.12 and len(text) > 30:  # two letters swapped by a thumb
        at = int(rng.integers(5, len(text) - 5))
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if entity < 0.25:
        text = text.replace("&", "&amp;").replace(" and ", " &amp; ", 1)
    if end < 0.2:
        text += _one(rng, ("!!", "...", " &lt;3", "!?", " 😢😢"))
    if tag < 0.75:
        text = " ".join([text, *rng.permutation(tags)[: rng.integers(1, 4)]])
    if emoji < 0.35:
        text += f" {_one(rng, _EMOJI)}"
    if mention < 0.2:
        text = f"@{_one(rng, _NAMES)} {text}"
    if link < 0.6:
        text = f"{text} {_link(rng)}" if link < 0.48 else f"{_link(rng)} {text}"
    if retweet < 0.18:
        text = f"RT @{_one(rng, _NAMES)}: {text}"
    return text.replace(". ", ".\n", 1) if broken < 0.07 else text


#: (Picture shows damage, text calls for help) to class.
CLASSES: dict[tuple[bool, bool], str] = {
    (True, True): "rescue_needed",
    (True, False): "damage_report",
    (False, True): "relief_effort",
    (False, False): "not_relevant",
}
_FACTORS = {label: factors for factors, label in CLASSES.items()}
CLASS_SHARES = {"rescue_needed": 0.23, "damage_report": 0.27, "relief_effort": 0.23, "not_relevant": 0.27}
SPLIT_SHARES = {"train": 0.6, "dev": 0.15, "test": 0.25}
REPOST_SHARE, IRRELEVANT_SHARE, CORRUPT_SHARE = 0.1, 0.06, 0.0125
CORRUPTIONS = ("truncated", "empty", "html", "garbled", "cut_png")
WEB_PAGE = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
# What a stream of random numbers is for, so that more of one never shifts another.
_PLAN, _PAINT, _WRITE = 0, 1, 2


@dataclass(frozen=True)
class Feed:
    """Files of a sample feed, posts in it, ids of those with a `broken` picture, and (repost, original, transform)."""

    folder: Path
    posts: Path
    images: Path
    truth: Path
    count: int
    broken: tuple[str, ...]
    reposts: tuple[tuple[str, str, str], ...]


@dataclass
class _Post:
    """One post while it is being made."""

    number: int
    label: str
    split: str
    event: str
    language: str
    kind: str
    scene: str
    width: int
    extension: str
    quality: int
    original: _Post | None = None
    transform: str = ""
    broken: str | None = None
    text: str = ""
    plain: str = ""
    picture: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"post-{self.number:04d}"

    @property
    def file(self) -> str:
        return f"images/{self.id}.{self.extension}"

    @property
    def text_kind(self) -> str:
        return "call" if _FACTORS[self.label][1] else "remark"


def make_feed(folder: str | Path, *, n: int = 400, seed: int = 0) -> Feed:
    """Write a sample feed of `n` posts (at least 40): ``images/``, ``posts.csv`` and ``truth.json``.

    The same seed and the same versions of NumPy and Pillow give the same bytes. Files of an earlier feed in the folder are
    replaced. SourceError: `n` is too small, or the folder cannot be written.
    """
    if n < 40:
        raise SourceError(f"a sample feed needs at least 40 posts, not {n}")
    if seed < 0:
        raise SourceError(f"the seed of a sample feed is 0 or more, not {seed}")
    folder = Path(folder)
    images, table, truth = folder / "images", folder / "posts.csv", folder / "truth.json"
    posts = _plan(n, seed)
    _write_texts(posts, seed)
    reposts = [post for post in posts if post.original]
    try:
        images.mkdir(parents=True, exist_ok=True)
        for old in images.glob("post-[0-9]*.*"):
            old.unlink()
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for batch in ([post for post in posts if not post.original], reposts):
                list(pool.map(lambda post: _write_picture(folder, post, seed), batch))
        posts.sort(key=lambda post: post.number)
        with table.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(("id", "image", "text", "label", "split", "lang", "event"))
            writer.writerows((p.id, p.file, p.text, p.label, p.split, p.language, p.event) for p in posts)
        truth.write_bytes((json.dumps(_truth(posts, seed), indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise SourceError(f"cannot write the sample feed to {folder}: {error.strerror or error}") from error
    pairs = tuple((p.id, p.original.id, p.transform) for p in reposts if p.original)
    return Feed(folder, table, images, truth, n, tuple(p.id for p in posts if p.broken), pairs)


def _plan(n: int, seed: int) -> list[_Post]:
    """Decide everything about every post but its pixels and words."""
    rng = np.random.default_rng([seed, _PLAN])
    reposts, corrupt = round(n * REPOST_SHARE), max(len(CORRUPTIONS), round(n * CORRUPT_SHARE))
    fresh = n - reposts
    labels, languages = _apportion(rng, CLASS_SHARES, fresh), _apportion(rng, LANGUAGES, fresh)
    events = _apportion(rng, dict.fromkeys(EVENTS, 1.0), fresh)
    splits, kinds = [""] * fresh, ["damage" if _FACTORS[label][0] else "calm" for label in labels]
    for label in CLASS_SHARES:  # the same mixture of labels in each split
        members = [i for i, value in enumerate(labels) if value == label]
        for i, split in zip(members, _apportion(rng, SPLIT_SHARES, len(members)), strict=True):
            splits[i] = split
    calm = [i for i, kind in enumerate(kinds) if kind == "calm"]
    for i in rng.choice(calm, round(n * IRRELEVANT_SHARE), replace=False).tolist():
        kinds[i] = "irrelevant"
    # Positions are shuffled once: a repost may come long before or after, as feeds are read.
    numbers = (rng.permutation(n) + 1).tolist()
    posts: list[_Post] = []
    rows = zip(numbers[:fresh], labels, splits, events, languages, kinds, strict=True)
    for number, label, split, event, language, kind in rows:
        scene = _choose_scene(rng, kind, EVENTS[event].hazard)
        width = int(rng.choice([360, 420, 480, 560, 640, 720], p=[0.1, 0.15, 0.3, 0.2, 0.15, 0.1]))
        extension = str(rng.choice(["jpg", "png", "webp"], p=[0.78, 0.1, 0.12]))
        quality = int(rng.integers(72, 95))
        posts.append(_Post(number, label, split, event, language, kind, scene, width, extension, quality))
    order = rng.permutation(fresh).tolist()
    for k, i in enumerate(order[:corrupt]):
        posts[i].broken = CORRUPTIONS[k % len(CORRUPTIONS)]
        posts[i].extension = "png" if posts[i].broken == "cut_png" else "jpg"
    transforms = ("exact", *TRANSFORMS)
    for k, i in enumerate(rng.choice(order[corrupt:], reposts, replace=False).tolist()):
        transform, extension = transforms[k % len(transforms)], posts[i].extension
        if transform == "format":
            extension = {"jpg": "webp", "webp": "png", "png": "jpg"}[extension]
        elif transform != "exact":
            extension = "jpg"
        split = str(rng.choice(list(SPLIT_SHARES), p=list(SPLIT_SHARES.values())))
        repost = replace(posts[i], number=numbers[fresh + k], original=posts[i], transform=transform)
        repost.split, repost.extension, repost.quality = split, extension, int(rng.integers(70, 95))
        posts.append(repost)
    return posts


def _choose_scene(rng: np.random.Generator, kind: str, hazard: str) -> str:
    scenes = {k: s.weight for k, s in SCENES.items() if s.kind == kind and s.hazard in (None, hazard)}
    weights = np.array(list(scenes.values()))
    return str(rng.choice(list(scenes), p=weights / weights.sum()))


def _apportion(rng: np.random.Generator, shares: dict[str, float], n: int) -> list[str]:
    """Values in random order, each as often as its share of `n` says, to the nearest whole number."""
    bounds = np.round(np.cumsum(list(shares.values())) / sum(shares.values()) * n).astype(int)
    return rng.permutation(np.repeat(list(shares), np.diff(bounds, prepend=0))).tolist()


def _write_texts(posts: Sequence[_Post], seed: int) -> None:
    """Give every post its text; no two fresh posts say the same thing."""
    said: set[str] = set()
    for post in posts:
        rng = np.random.default_rng([seed, _WRITE, post.number])
        if post.original:
            post.plain, post.text = post.original.plain, post.original.text
            if rng.random() < 0.6:
                post.text = edited(rng, post.text)
            continue
        for _ in range(200):
            post.text, post.plain = compose(rng, post.text_kind, post.event, post.language)
            if post.plain not in said:
                break
        said.add(post.plain)


def _write_picture(folder: Path, post: _Post, seed: int) -> None:
    """Paint a fresh picture, or copy or transform the file of the original."""
    rng, source = np.random.default_rng([seed, _PAINT, post.number]), post.original
    if source is None:
        image, facts = paint(rng, post.scene, long_side=post.width)
        post.picture = {"kind": post.kind, **facts}
    else:
        post.picture = source.picture
        if post.transform == "exact":
            shutil.copyfile(folder / source.file, folder / post.file)
            return
        with Image.open(folder / source.file) as original:
            image = TRANSFORMS[post.transform](original.convert("RGB"), rng)
    data = encode(image, post.extension, post.quality)
    if post.broken:  # the way such files are spoilt in the wild
        spoilt = {"empty": b"", "html": WEB_PAGE.encode(), "garbled": bytes(b ^ 0x5A for b in data[:4096])}
        data = spoilt.get(post.broken, data[: len(data) * 2 // 5])
    (folder / post.file).write_bytes(data)


def _truth(posts: Sequence[_Post], seed: int) -> dict[str, Any]:
    """Everything a test wants to know, as JSON."""
    items = {}
    for p in posts:
        items[p.id] = {
            "image": p.file,
            "label": p.label,
            "split": p.split,
            "event": p.event,
            "hazard": EVENTS[p.event].hazard,
            "language": p.language,
            "text_kind": p.text_kind,
            "text_plain": p.plain,
            # Of a file that cannot be read there is nothing to see.
            "picture": {"kind": "unreadable", "broken": p.broken} if p.broken else p.picture,
            "caption": None if p.broken else p.picture["caption"],
            "repost_of": p.original.id if p.original else None,
        }
    duplicates, leaks = [], []
    for p in posts:
        if p.original:
            pair, edits = (
                {"item": p.id, "of": p.original.id},
                "same" if p.text == p.original.text else "edited",
            )
            duplicates.append({**pair, "transform": p.transform, "text": edits})
            if p.split != p.original.split:
                leaks.append({**pair, "splits": [p.split, p.original.split]})
    return {
        "about": "Ground truth of an icehouse sample feed. label = what picture and text say together.",
        "seed": seed,
        "classes": {
            label: {"picture_shows_damage": damage, "text_calls_for_help": call}
            for label, (damage, call) in _FACTORS.items()
        },
        "items": items,
        "duplicates": duplicates,
        "leaks": leaks,
        "irrelevant": [p.id for p in posts if p.kind == "irrelevant" and not p.broken],
        "corrupt": [{"item": p.id, "image": p.file, "how": p.broken} for p in posts if p.broken],
    }
