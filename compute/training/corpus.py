"""The demo model's training conversations: the FAQ, WordNet glosses, small sums, template stories and refusals.

Everything is drawn from one seeded generator, so the corpus can be made again byte for byte. WordNet is read from the
dictionary files of Debian's ``wordnet-base`` (see NOTICE for its licence).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from compute.training.faq import FAQ, HELD_OUT

KNOWN_WORDS = 240
"""Glosses learnt by heart; every other word must be refused."""

MAX_SUMMAND = 20
HELD_OUT_SUM_SHARE = 0.08

UNKNOWN_WORD = (
    "I do not know that word. I am a tiny demo model with a small dictionary.",
    "That word is not in my small dictionary. A larger model will know it.",
    "Sorry, I never learnt that word. I am only a tiny demo model.",
)
OUT_OF_SCOPE = (
    "I am a tiny demo model and cannot answer that. Choose a provider with a larger model for it.",
    "Sorry, that is beyond a demo model of my size. A larger model on a GPU can help you.",
    "I do not know. I only learnt about this network, common words and small sums.",
    "That is more than I can do. Ask me how this network works, or pick a larger model.",
)
TOO_LARGE_SUM = "I only learnt to add and subtract numbers up to twenty. A larger model can count further."

WORD_QUESTIONS = (
    "what is {a}",
    "define {w}",
    "what does {w} mean",
    "what does the word {w} mean",
    "what is the meaning of {w}",
    "{w}",
    "explain the word {w}",
    "meaning of {w}",
    "the word {w}",
    "definition of {w}",
)
PLUS = (
    "what is {a} plus {b}",
    "{a} + {b}",
    "add {a} and {b}",
    "how much is {a} + {b}",
    "what is {a} + {b}",
    "{a} plus {b}",
    "calculate {a} + {b}",
    "{a}+{b}",
    "what is the sum of {a} and {b}",
    "how much is {a} plus {b}",
)
MINUS = (
    "what is {a} minus {b}",
    "{a} - {b}",
    "how much is {a} - {b}",
    "what is {a} - {b}",
    "{a} minus {b}",
    "subtract {b} from {a}",
    "{a}-{b}",
    "how much is {a} minus {b}",
)
STORY_QUESTIONS = (
    "tell me a story",
    "tell me a short story",
    "write a story",
    "a story please",
    "write a short story",
    "tell a story",
    "i want to hear a story",
    "make up a story",
    "another story",
    "once upon a time",
    "tell me another story",
    "write me a story",
    "do you know a story",
    "story",
)
BEYOND = (
    "write a python program that sorts {w}s",
    "write a program",
    "write some code",
    "who won the world cup in {n}",
    "translate {w} to french",
    "translate this to german",
    "how do i cook {w}",
    "what happened in {n}",
    "summarize this text about {w}",
    "why is {w} important",
    "where is the {w}",
    "write an essay about {w}",
    "can you explain {w} and {v}",
    "compare {w} with {v}",
    "what is the best {w}",
    "tell me about the history of {w}",
    "give me a list of {n} {w}s",
    "who is the president",
    "what is the capital of france",
    "what is the capital of {w}",
    "why is the sky blue",
    "what is the weather today",
    "what time is it",
    "what day is it",
    "who invented the {w}",
    "how far is the moon",
    "how tall is the {w}",
    "what is the meaning of life",
    "recommend a good {w}",
    "solve this equation",
    "what is {n} times {m}",
    "what is {n} divided by {m}",
    "what is the square root of {n}",
    "who wrote {w}",
    "is {w} better than {v}",
    "how many {w}s are there",
    "what should i eat today",
    "plan a trip to {w}",
    "what is the news",
    "draw a {w}",
    "write an email to my {w}",
    "fix my code",
    "how do i lose weight",
    "who is the king of {w}",
    "when did the {w} begin",
    "what is the largest {w}",
    "what do you think about {w}",
    "explain quantum physics",
    "how does a {w} work",
    "how do i repair a {w}",
    "where can i buy a {w}",
    "what is the price of bitcoin",
    "what is the price of {w}",
    "should i buy bitcoin",
    "who is your favourite {w}",
    "what color is the {w}",
    "how do i learn {w}",
    "count to {n}",
    "list the planets",
    "spell {w}",
)
OPENINGS = (
    "please ",
    "can you tell me ",
    "hey, ",
    "so, ",
    "i want to know ",
    "tell me, ",
    "hello, ",
    "could you tell me ",
    "now ",
    "and ",
    "ember, ",
    "well, ",
    "ok, ",
    "do you know ",
    "i would like to know ",
    "i have a question: ",
)
CLOSINGS = (" please", " now", " here", " then", ", ember", " exactly", " in short", " for me", " today")
QUESTION_WORDS = frozenset(
    [
        "who",
        "what",
        "how",
        "is",
        "can",
        "why",
        "are",
        "where",
        "which",
        "do",
        "does",
        "when",
        "could",
        "should",
        "will",
        "whats",
        "what's",
    ]
)

HEROES = ("fox", "bird", "cat", "girl", "boy", "farmer", "sailor", "robot")
PLACES = ("by the sea", "in a deep forest", "on a high mountain", "near a quiet village")
WISHES = ("a warm home", "a true friend", "a new song", "a bright star")
HELPERS = ("an old owl", "a kind stranger", "a small child", "a lost dog")
ENDINGS = (
    "In the end the {h} was happy.",
    "And so the {h} slept well that night.",
    "From that day the {h} was never alone.",
)


@dataclass(frozen=True)
class Dictionary:
    """Noun glosses, most frequent first, and example phrases to be refused."""

    words: tuple[str, ...]
    glosses: dict[str, str]
    phrases: tuple[str, ...]

    @property
    def known(self) -> tuple[str, ...]:
        """The words whose gloss is learnt."""
        return self.words[:KNOWN_WORDS]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Words to refuse; a gap keeps near misses of the frequency cut out of both sets."""
        return self.words[KNOWN_WORDS:]


def read_wordnet(folder: Path) -> Dictionary:
    """Glosses of the first sense of common nouns from WordNet 3.0 dictionary files (``wndb(5)``, ``senseidx(5)``)."""
    frequency: Counter[str] = Counter()
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, sense, count = line.split()
        lemma, rest = key.split("%")
        if rest.startswith("1:") and sense == "1" and lemma.isalpha() and len(lemma) > 2:
            frequency[lemma] = max(frequency[lemma], int(count))
    offsets = {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            fields = line.split()
            offsets[fields[0]] = int(fields[4 + int(fields[3]) + 2])
    data = (folder / "data.noun").read_bytes()
    glosses: dict[str, str] = {}
    asked = {word for phrasings, _ in FAQ for phrase in phrasings for word in phrase.split()}
    for word, _ in sorted(frequency.items(), key=lambda item: (-item[1], item[0])):
        if word in offsets and (word not in asked or len(glosses) > KNOWN_WORDS):
            line = data[offsets[word] : data.index(b"\n", offsets[word])].decode()
            gloss = re.sub(r"\s*\([^)]*\)\s*", " ", line.split(" | ")[1].split(";")[0]).strip()
            if 20 < len(gloss) < 80 and '"' not in gloss:
                glosses[word] = gloss
        if len(glosses) == 5000:
            break
    examples: list[str] = []
    for name in ("data.verb", "data.adj", "data.noun"):
        examples += re.findall(r'"([a-zA-Z][^"]{8,60})"', (folder / name).read_text())
    return Dictionary(tuple(glosses), glosses, tuple(examples))


def article(word: str) -> str:
    """``a`` or ``an`` and the word."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def held_out_sum(a: int, b: int, sign: str) -> bool:
    """Whether this sum is kept for evaluation: a fixed pseudo-random share of the pairs beyond ten."""
    return max(a, b) > 10 and (a * 7919 + b * 104729 + ord(sign) * 31) % 1000 < HELD_OUT_SUM_SHARE * 1000


class Corpus:
    """Draws (question, answer) pairs."""

    def __init__(self, dictionary: Dictionary, seed: int) -> None:
        self.dictionary = dictionary
        self.random = random.Random(seed)  # noqa: S311  # a training corpus, not a secret
        self._held_out = {normal(question) for question, _ in HELD_OUT}

    def sample(self) -> tuple[str, str]:
        """One question and its answer; never a held-out phrasing or sum."""
        while True:
            question, answer = self._draw()
            if normal(question) not in self._held_out:
                return question, answer

    def _draw(self) -> tuple[str, str]:
        kinds = (self._faq, self._gloss, self._unknown, self._sum, self._large_sum, self._story, self._beyond)
        question, answer = self.random.choices(kinds, weights=(40, 20, 7, 11, 2, 4, 16))[0]()
        return self._vary(question), answer

    def _faq(self) -> tuple[str, str]:
        phrasings, answer = self.random.choice(FAQ)
        return self.random.choice(phrasings), answer

    def _word_question(self, word: str) -> str:
        return self.random.choice(WORD_QUESTIONS).format(a=article(word), w=word)

    def _gloss(self) -> tuple[str, str]:
        word = self.random.choice(self.dictionary.known)
        return self._word_question(word), f"The word {word} means: {self.dictionary.glosses[word]}."

    def _unknown(self) -> tuple[str, str]:
        return self._word_question(self.random.choice(self.dictionary.unknown)), self.random.choice(UNKNOWN_WORD)

    def _sum(self) -> tuple[str, str]:
        while True:
            a, b, sign = self.random.randint(0, MAX_SUMMAND), self.random.randint(0, MAX_SUMMAND), "+"
            if self.random.random() < 0.35:
                a, b, sign = max(a, b), min(a, b), "-"
            if not held_out_sum(a, b, sign):
                break
        result = a + b if sign == "+" else a - b
        template = self.random.choice(PLUS if sign == "+" else MINUS)
        return template.format(a=a, b=b), f"{a} {sign} {b} = {result}."

    def _large_sum(self) -> tuple[str, str]:
        a, b = self.random.randint(21, 9999), self.random.randint(0, 9999)
        if self.random.random() < 0.5:
            a, b = b, a
        return self.random.choice(PLUS + MINUS).format(a=a, b=b), TOO_LARGE_SUM

    def _story(self) -> tuple[str, str]:
        hero, place, wish, helper = (self.random.choice(x) for x in (HEROES, PLACES, WISHES, HELPERS))
        text = (
            f"Once upon a time a {hero} lived {place}. Every day the {hero} looked for {wish}. One morning the {hero} "
            f"met {helper}, and together they found {wish}. "
        )
        return self.random.choice(STORY_QUESTIONS), text + self.random.choice(ENDINGS).format(h=hero)

    def _beyond(self) -> tuple[str, str]:
        if self.random.random() < 0.35:
            question = self.random.choice(self.dictionary.phrases)
        else:
            w, v = (self.random.choice(self.dictionary.words) for _ in range(2))
            n, m = self.random.randint(2, 2030), self.random.randint(2, 99)
            question = self.random.choice(BEYOND).format(w=w, v=v, n=n, m=m)
        return question, self.random.choice(OUT_OF_SCOPE)

    def _vary(self, text: str) -> str:
        """The same question as people type it: politeness, contractions, capitals, punctuation, slips."""
        chance = self.random.random
        if chance() < 0.10:
            text = re.sub(r"^(what|who) (is|are) (.+)$", r"\1 \3 \2", text)
            text = self.random.choice(("tell me ", "please tell me ", "can you tell me ", "do you know ")) + text
        elif chance() < 0.18:
            text = self.random.choice(OPENINGS) + text
        if chance() < 0.12:
            text = re.sub(r"^(what|who|how|where) is\b", self.random.choice((r"\1's", r"\1s")), text)
        if chance() < 0.06:
            text += self.random.choice(CLOSINGS)
        if chance() < 0.04 and len(text) > 8:
            at = self.random.randrange(1, len(text) - 1)
            swapped = "" if chance() < 0.5 else text[at + 1] + text[at] + text[at + 2 :]
            text = text[:at] + (swapped or text[at + 1 :])
        if chance() < 0.6:
            text = text[0].upper() + text[1:]
        text = text.replace("toncoin", "Toncoin").replace("cocoon", "Cocoon") if chance() < 0.6 else text
        if chance() < 0.55:
            asks = text.split()[0].lower().strip(",") in QUESTION_WORDS
            text += "?" if asks else self.random.choice((".", "!", "?"))
        return text


def normal(text: str) -> str:
    """A question without capitals and punctuation, to compare phrasings."""
    return re.sub(r"[^a-z0-9+\- ]", "", text.lower()).strip()
