"""What people write in the sample feed: calls for or offers of help, and remarks, in eight languages and noisy.

A text never says what its picture shows. "Mill Lane this morning" goes with a drowned street and with a lawn; "blankets
needed at the town hall" comes from people in ruins and from a collection point. Half of the truth is in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

import numpy as np

__all__ = ["EVENTS", "LANGUAGES", "Event", "Post", "compose", "edited"]


@dataclass(frozen=True)
class Event:
    """A made-up disaster: its key, what it is, where, and the tags it goes by."""

    hazard: str
    town: str
    tags: tuple[str, ...]


EVENTS: dict[str, Event] = {
    "dunmere_flood": Event("flood", "Dunmere", ("#DunmereFlood", "#Dunmere", "#flood", "#PrayForDunmere")),
    "corvane_earthquake": Event(
        "earthquake", "Corvane", ("#CorvaneQuake", "#Corvane", "#earthquake", "#StrongCorvane")
    ),
    "halden_wildfire": Event(
        "wildfire", "Halden Ridge", ("#HaldenFire", "#HaldenRidge", "#wildfire", "#fireseason")
    ),
    "port_ellis_storm": Event(
        "storm", "Port Ellis", ("#StormAda", "#PortEllis", "#storm", "#PortEllisStrong")
    ),
}

#: Share of each language among the posts.
LANGUAGES = {"en": 0.825, "es": 0.04, "fr": 0.03, "pt": 0.025, "tr": 0.02, "id": 0.02, "hi": 0.02, "ar": 0.02}

_PLACES = (
    "Mill Lane", "the town hall", "St Mary's school", "Harbour Street", "the old market", "the bus station",
    "North Bridge", "Orchard Road", "the sports hall", "Castle Square", "the fire station", "Elm Park",
    "the library on Queen Street", "the railway crossing", "Weaver Row", "the community centre", "Hillside Avenue",
    "the church on Bishop Street", "Ferry Quay", "the college gym", "Lower Dale", "Chapel Hill", "the allotments",
    "Station Road", "the car park behind the cinema", "Tanner's Yard", "the health centre", "Upper Farm",
    "Rosemary Close", "the stadium",
)  # fmt: skip
_GOODS = (
    "blankets", "drinking water", "nappies and baby milk", "warm clothes", "torches and batteries", "sleeping bags",
    "tinned food", "insulin", "shovels and buckets", "a generator", "medicine for two elderly people", "hot meals",
    "tents", "pet food", "dry socks and boots", "phone chargers", "mattresses", "fuel", "first aid kits",
    "clean towels", "bread and fruit", "soap",
)  # fmt: skip
_TIMES = (
    "this morning", "at 6am", "right now", "tonight", "since yesterday", "at noon", "an hour ago", "on Tuesday",
    "all night", "just before dark", "today", "at the weekend", "after breakfast", "at quarter past four",
)  # fmt: skip
_WHO = (
    "my neighbour", "my sister", "an old couple", "a family of five", "our street", "two students", "my aunt",
    "the people upstairs", "a young mother", "three families", "my grandparents", "the choir", "our football team",
    "a teacher",
)  # fmt: skip

_CALLS = (
    "We need {goods} at {place}, please bring what you can",
    "Please help: {who} at {place}, still without {goods}",
    "Does anybody have {goods} for {place}? Please call {phone}",
    "Volunteers wanted at {place} {time}, no experience needed",
    "Looking for {goods} for {who}, can fetch them anywhere near {place}",
    "Please share!! {place} is asking for {goods}",
    "If you have a van or a boat please come to {place}",
    "We are collecting {goods} at {place} until eight, every bit helps",
    "I can offer a room near {place} to {who}, message me",
    "Urgent: {who} near {place} waiting for help {time}, number is {phone}",
    "Send help to {place} please, {who} cannot get out of the house alone",
    "Drop off {goods} at {place} and we will take them to those who need them",
    "Can someone drive {who} from {place} to a doctor? {phone}",
    "Donate {goods} at {place}. Doors are open {time}",
    "We have {goods} to give away, come to {place} or call {phone}",
    "Need hands at {place} {time}, also {goods} if you can spare any",
    "{place} still short of {goods}. Who can bring some?",
    "Offering free lifts from {place} {time} to anyone who must leave, {phone}",
    "Please RT, {who} must have {goods} soon and nobody answers at {place}",
    "Give what you can: {goods}, money, an hour of your time. Meet at {place}",
    "Anyone with {goods} to lend? Our group at {place} has run out",
    "Calling all nurses and drivers, report to {place} please",
    "{who} asked me to find {goods}, can you help? We are at {place}",
    "Support {who}: leave {goods} with the desk at {place}",
    # Calls that hardly sound like calls.
    "{place}, four people, two of them over eighty. {phone}",
    "Number for {place} is {phone}, somebody answers day and night",
    "{goods} running low at {place}",
    "Still waiting for someone to come to {place}",
)
_REMARKS = (
    "{place} {time}",
    "This is what {place} looks like {time}",
    "View from my window towards {place} {time}",
    "Never seen {place} like this before",
    "Took this near {place} {time}, what a sight",
    "I walked past {place} {time} and could not stop staring",
    "So this is {town} now. {place} {time}",
    "The mayor was on the radio again, not a word about {place}",
    "{who} sent me this picture of {place}",
    "Driving through {town}, {place} on the left",
    "Grew up round the corner from {place}. Strange to look at it {time}",
    "They say on the news that {town} will talk about this for years",
    "Photo of {place} taken by {who} {time}",
    "Here is {place} {time}, judge for yourselves",
    "Cannot believe this is {place}, I was there {time}",
    "Everybody is talking about {town}, here is my picture",
    "Ten minutes at {place} {time} and my shoes tell the story",
    "Remember {place}? It looks like this {time}",
    "What a week in {town}. {place} {time}",
    "First light over {place}, could not sleep anyway",
    "My walk to work goes past {place}. Today it took an hour",
    "Somebody should paint this. {place} {time}",
    "According to the paper it was {place} that made the headlines",
    "From {place} to the river in one picture, {time}",
    # Remarks that talk of help without asking for any.
    "So many people brought {goods} to {place}, it was on the news {time}",
    "Report on the help that came to {place}: {goods} for everybody, says the council",
    "{who} told a reporter how volunteers came to {place} {time}",
    "Back in the day they gave {goods} to {place} too, as {who} told me",
)
_FILLERS = (
    "Stay safe everyone.", "My phone is at ten percent.", "It is cold {time}.", "Day {number} in {town}.",
    "Love to all in {town}.", "I have no words.", "Same story {time}.", "It is what it is.", "Thinking of {town}.",
    "Sorry for the blurry picture.", "Posting this for {who}.", "Not sleeping much.",
    "Still {number} degrees outside.", "The dog is fine.", "Roads are busy {time}.",
)  # fmt: skip

#: Language: places, goods, times, calls, remarks.
_ELSEWHERE: dict[str, tuple[tuple[str, ...], ...]] = {
    "es": (
        (
            "la plaza mayor",
            "la escuela",
            "la calle del Río",
            "el mercado",
            "el puente viejo",
            "el polideportivo",
            "la iglesia",
        ),
        ("agua potable", "mantas", "pañales", "ropa de abrigo", "medicinas", "comida", "linternas"),
        ("esta mañana", "ahora mismo", "hoy", "desde ayer", "anoche"),
        (
            "Necesitamos {goods} en {place}, por favor compartan",
            "Se buscan voluntarios en {place} {time}",
            "Por favor ayuda, hay familias en {place} sin {goods}",
            "Estamos recogiendo {goods} en {place} para quien lo necesite",
            "¿Alguien puede traer {goods}? Estamos en {place}, llamen al {phone}",
            "Urgente: hace falta {goods} en {place}",
        ),
        (
            "Así está {place} {time}",
            "Foto hecha en {place} {time}",
            "Nunca había visto {place} así",
            "Desde mi ventana se ve {place} {time}",
            "Pasé por {place} {time} y me quedé mirando",
            "Dicen en la radio que en {town} no se habla de otra cosa",
        ),
    ),
    "fr": (
        ("la mairie", "la gare", "la rue des Écoles", "le vieux pont", "le gymnase", "la place du marché"),
        (
            "de l'eau potable",
            "des couvertures",
            "des couches",
            "des vêtements chauds",
            "des médicaments",
            "de la nourriture",
        ),
        ("ce matin", "en ce moment", "aujourd'hui", "depuis hier", "cette nuit"),
        (
            "Nous cherchons {goods} pour {place}, merci de partager",
            "On a besoin de bénévoles près de {place} {time}",
            "Aidez-nous s'il vous plaît, il nous faut {goods}, rendez-vous devant {place}",
            "Qui peut apporter {goods} ? Nous sommes devant {place}, tél. {phone}",
            "Collecte pour les familles : {goods}, à déposer devant {place}",
        ),
        (
            "Voilà {place} {time}",
            "Photo prise devant {place} {time}",
            "Je n'ai jamais vu {place} comme ça",
            "La vue depuis ma fenêtre {time}, on voit {place}",
            "Tout le monde parle de {town} {time}",
        ),
    ),
    "pt": (
        ("a praça central", "a escola", "a rua da Ponte", "o ginásio", "o mercado velho", "a rodoviária"),
        ("água potável", "cobertores", "fraldas", "roupas quentes", "remédios", "alimentos"),
        ("hoje de manhã", "agora", "hoje", "desde ontem", "esta noite"),
        (
            "Precisamos de {goods} para levar até {place}, por favor compartilhem",
            "Procuramos voluntários {time}, encontro: {place}",
            "Ajudem por favor, há famílias sem {goods} perto daqui: {place}",
            "Estamos recebendo doações de {goods}. Local: {place}",
            "Quem pode trazer {goods}? Ligue {phone}",
        ),
        (
            "Olha como está {place} {time}",
            "Foto que tirei {time}: {place}",
            "Nunca vi {place} desse jeito",
            "Da minha janela se vê {place} {time}",
            "Só se fala de {town} {time}",
        ),
    ),
    "tr": (
        ("Belediye binası", "Eski köprü", "Çarşı meydanı", "İstasyon caddesi", "Spor salonu", "İlkokul"),
        ("içme suyu", "battaniye", "bebek bezi", "kışlık giysi", "ilaç", "sıcak yemek"),
        ("bu sabah", "şu anda", "bugün", "dünden beri", "dün gece"),
        (
            "Acil {goods} lazım, adres: {place}. Lütfen paylaşın",
            "Gönüllü arıyoruz, buluşma yeri: {place}, tel: {phone}",
            "Lütfen yardım edin, ailelere {goods} gerekiyor. {place}",
            "{goods} toplayıp ihtiyacı olanlara götürüyoruz. Teslim yeri: {place}",
        ),
        (
            "{place}, {time} böyle görünüyor",
            "{time} çektiğim fotoğraf: {place}",
            "Hiç böyle görmemiştim. {place}, {time}",
            "Herkes {town} hakkında konuşuyor. {place}",
        ),
    ),
    "id": (
        ("balai kota", "jembatan lama", "pasar lama", "jalan Stasiun", "gedung olahraga", "sekolah dasar"),
        ("air minum", "selimut", "popok bayi", "pakaian hangat", "obat-obatan", "makanan siap saji"),
        ("pagi ini", "sekarang", "hari ini", "sejak kemarin", "tadi malam"),
        (
            "Kami butuh {goods} di {place}, tolong sebarkan",
            "Dicari relawan di {place} {time}, hubungi {phone}",
            "Mohon bantuan, keluarga di {place} kekurangan {goods}",
            "Kami mengumpulkan {goods} di {place} untuk yang membutuhkan",
        ),
        (
            "Beginilah {place} {time}",
            "Foto {place} yang saya ambil {time}",
            "Belum pernah melihat {place} seperti ini",
            "Pemandangan {place} dari jendela saya {time}",
        ),
    ),
    "hi": (
        ("टाउन हॉल", "पुराना पुल", "स्टेशन रोड", "सरकारी स्कूल", "पुराना बाज़ार", "खेल मैदान"),
        ("पीने का पानी", "कंबल", "दवाइयाँ", "गर्म कपड़े", "खाना", "टॉर्च"),
        ("आज सुबह", "अभी", "आज", "कल से", "कल रात"),
        (
            "{goods} की ज़रूरत है, जगह: {place}। कृपया शेयर करें",
            "स्वयंसेवक चाहिए, मिलने की जगह: {place}, फ़ोन {phone}",
            "कृपया मदद करें, कई परिवारों के पास {goods} नहीं है। {place}",
            "हम {goods} इकट्ठा कर रहे हैं, जमा करने की जगह: {place}",
        ),
        (
            "{place}, {time} का नज़ारा",
            "{time} ली गई तस्वीर: {place}",
            "ऐसा पहले कभी नहीं देखा। {place}, {time}",
            "मेरी खिड़की से {place} ऐसा दिखता है, {time}",
        ),
    ),
    "ar": (
        ("مبنى البلدية", "الجسر القديم", "شارع المحطة", "المدرسة", "السوق القديم", "الصالة الرياضية"),
        ("مياه الشرب", "البطانيات", "حليب الأطفال", "الملابس الدافئة", "الأدوية", "الطعام"),
        ("هذا الصباح", "الآن", "اليوم", "منذ أمس", "الليلة الماضية"),
        (
            "نحتاج إلى {goods} عند {place}، الرجاء النشر",
            "مطلوب متطوعون عند {place} {time}، هاتف {phone}",
            "ساعدونا من فضلكم، عائلات قرب {place} تنقصها {goods}",
            "نجمع {goods} للمحتاجين عند {place}",
        ),
        (
            "هكذا يبدو {place} {time}",
            "صورة من {place} {time}",
            "لم أر {place} هكذا من قبل",
            "من نافذتي يظهر {place} {time}",
        ),
    ),
}

_EMOJI = ("🙏", "😢", "💔", "🌍", "😮", "📷", "☔", "❤️", "👀", "🤷", "🕯️", "💪")
_NAMES = (
    "maria_k",
    "TomAtHome",
    "newsdesk_9",
    "lena.w",
    "the_real_jo",
    "ahmad77",
    "CityWatch",
    "priya_s",
    "oldmill_cafe",
    "b0b",
)
_LINK_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"


@dataclass(frozen=True)
class Post:
    """A text as posted, and what it was before the noise came in."""

    text: str
    plain: str
    language: str


def compose(rng: np.random.Generator, kind: str, event: str, language: str) -> Post:
    """Write one post.

    Parameters
    ----------
    rng : numpy.random.Generator
    kind : {"call", "remark"}
        Whether the text asks for or offers help.
    event : str
        Key into `EVENTS`.
    language : str
        Key into `LANGUAGES`.
    """
    town = EVENTS[event].town
    if language == "en":
        lists = (_PLACES, _GOODS, _TIMES, _CALLS, _REMARKS)
    else:
        lists = _ELSEWHERE[language]  # type: ignore[assignment]
    places, goods, times, calls, remarks = lists
    sentence = _fill(rng, _one(rng, calls if kind == "call" else remarks), town, places, goods, times)
    if language == "en" and rng.random() < 0.45:
        filler = _fill(rng, _one(rng, _FILLERS), town, places, goods, times)
        joined = sentence + ("" if sentence[-1] in "?!." else ".")
        sentence = f"{joined} {filler}" if rng.random() < 0.7 else f"{filler} {joined}"
    return Post(_noisy(rng, sentence, EVENTS[event]), sentence, language)


def edited(rng: np.random.Generator, text: str) -> str:
    """Repost a text with small edits that leave its meaning: credit, another link, case, an emoji."""
    how = int(rng.integers(4))
    bare = " ".join(word for word in text.split() if not word.startswith("http"))
    if how == 0:
        return f"RT @{_one(rng, _NAMES)}: {bare}"
    if how == 1:
        return f"{bare} (via @{_one(rng, _NAMES)}) {_link(rng)}"
    if how == 2:
        return f"{_one(rng, _EMOJI)} {bare.rstrip('.!')}!!"
    return f"{bare.upper() if rng.random() < 0.3 else bare} {_link(rng)}"


def _one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _fill(
    rng: np.random.Generator,
    template: str,
    town: str,
    places: tuple[str, ...],
    goods: tuple[str, ...],
    times: tuple[str, ...],
) -> str:
    values = {
        "town": town,
        "place": _one(rng, places),
        "goods": _one(rng, goods),
        "time": _one(rng, times),
        "who": _one(rng, _WHO),
        "phone": f"0{rng.integers(100, 999)} {rng.integers(1000, 9999)}",
        "number": str(rng.integers(2, 30)),
    }
    used = {name for _, name, _, _ in Formatter().parse(template) if name}
    text = template.format(**{name: values[name] for name in used})
    return text[0].upper() + text[1:]


def _link(rng: np.random.Generator) -> str:
    letters = "".join(_LINK_LETTERS[int(i)] for i in rng.integers(len(_LINK_LETTERS), size=10))
    return f"https://t.example/{letters}"


def _noisy(rng: np.random.Generator, text: str, event: Event) -> str:
    """Add what a feed adds, whatever the kind of text: tags, links, mentions, entities, emoji, shouting, slips."""
    if rng.random() < 0.06:
        text = text.upper()
    elif rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.12 and len(text) > 30:  # two letters swapped by a thumb
        at = int(rng.integers(5, len(text) - 5))
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    text = text.replace("&", "&amp;").replace(" and ", " &amp; ", 1) if rng.random() < 0.25 else text
    if rng.random() < 0.2:
        text += str(rng.choice(["!!", "...", " &lt;3", "!?", " 😢😢"]))
    if rng.random() < 0.75:
        text += "".join(
            f" {event.tags[int(i)]}" for i in rng.permutation(len(event.tags))[: int(rng.integers(1, 4))]
        )
    if rng.random() < 0.35:
        text += f" {_one(rng, _EMOJI)}"
    if rng.random() < 0.2:
        text = f"@{_one(rng, _NAMES)} {text}"
    if rng.random() < 0.6:
        text = f"{text} {_link(rng)}" if rng.random() < 0.8 else f"{_link(rng)} {text}"
    if rng.random() < 0.18:
        text = f"RT @{_one(rng, _NAMES)}: {text}"
    if rng.random() < 0.07:
        text = text.replace(". ", ".\n", 1)
    return text
