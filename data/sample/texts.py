"""Texts of the sample feed: calls for help or offers of it, and remarks, in eight languages, as noisy as a feed.

A text never says what its picture shows. "Mill Lane this morning" goes with a drowned street and with a lawn; "blankets
needed at the town hall" comes from people in ruins and from a collection point. Half of the truth is in the picture.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np


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
