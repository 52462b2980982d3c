"""Measure the exported model: ``python -m compute.training.evaluate WORDNET_DIR [MODEL_DIR]``.

Runs the real engine, greedily, int8 weights as shipped. "Learnt" rows ask what training contained; "held out" rows ask
phrasings, sums and words that it did not. Prints one line a measure and the wrong answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compute.engines.base import EngineJobId
from compute.engines.demo_llama import DEMO_MODEL, DemoLlamaEngine
from compute.tasks import ChatRequest, Finished, Message, Sampling, TextDelta
from compute.training.corpus import (
    MAX_SUMMAND,
    OUT_OF_SCOPE,
    TOO_LARGE_SUM,
    UNKNOWN_WORD,
    held_out_sum,
    read_wordnet,
)
from compute.training.faq import FAQ, HELD_OUT

FREE_PROMPTS = (
    "What is the capital of Germany?", "Write a Python program that sorts a list", "Translate house to German",
    "Who is Albert Einstein?", "What is 3 times 4?", "Give me a recipe for pancakes", "Who won the last election?",
    "Explain the theory of relativity", "What should I wear tomorrow?", "Is it going to rain?", "Fix this bug for me",
    "How old is the universe?", "Summarize the book Moby Dick", "What is your opinion about politics?",
    "I feel sad today", "My cat is called Tom", "Do you like music?", "Which phone should I buy?", "asdf qwer", "42",
)  # fmt: skip


def answer_all(engine: DemoLlamaEngine, questions: list[str]) -> list[str]:
    """The greedy answers to single questions, decoded in batches by the engine."""
    texts = dict.fromkeys(range(len(questions)), "")
    for index, question in enumerate(questions):
        request = ChatRequest("demo-chat", (Message("user", question),), Sampling(max_tokens=96))
        engine.submit(EngineJobId(index), request)
    left = len(questions)
    while left:
        for job, event in engine.step():
            if isinstance(event, TextDelta):
                texts[job] += event.text
            elif isinstance(event, Finished | Exception):
                left -= 1
    return list(texts.values())


def report(engine: DemoLlamaEngine, name: str, cases: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Ask all questions of ``cases``; right is an answer that begins with one of the given texts."""
    answers = answer_all(engine, [question for question, _ in cases])
    wrong = [(q, a) for (q, good), a in zip(cases, answers, strict=True) if not a.startswith(good)]
    print(f"{name}: {len(cases) - len(wrong)}/{len(cases)}")
    for question, answer in wrong[:12]:
        print(f"    {question!r} -> {answer!r}")


def main() -> None:
    """Print the measures of the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("model", type=Path, nargs="?", default=DEMO_MODEL)
    args = parser.parse_args()
    engine = DemoLlamaEngine(args.model)
    engine.load()
    words = read_wordnet(args.wordnet)
    pairs = [(a, b) for a in range(MAX_SUMMAND + 1) for b in range(MAX_SUMMAND + 1)]
    sums = [(f"what is {a} plus {b}?", (f"{a} + {b} = {a + b}.",), held_out_sum(a, b, "+")) for a, b in pairs]
    report(engine, "FAQ, learnt phrasings", [(q, (a,)) for phrasings, a in FAQ for q in phrasings])
    report(engine, "FAQ, held-out phrasings", [(q, (a,)) for q, a in HELD_OUT])
    glosses = [(f"what does {w} mean?", (f"The word {w} means: {words.glosses[w]}.",)) for w in words.known]
    report(engine, "glosses, learnt", glosses)
    report(engine, "sums to 20, learnt", [(q, a) for q, a, held in sums if not held])
    report(engine, "sums to 20, held out", [(q, a) for q, a, held in sums if held])
    report(engine, "unknown words refused", [(f"define {w}", UNKNOWN_WORD) for w in words.unknown[1::40]])
    refusals = (*OUT_OF_SCOPE, *UNKNOWN_WORD, TOO_LARGE_SUM)
    report(engine, "free prompts refused or answered by a learnt small talk", [(q, refusals) for q in FREE_PROMPTS])


if __name__ == "__main__":
    main()
