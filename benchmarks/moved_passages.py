"""What truncation costs when the passage that decides is not at the beginning: the same documents, rearranged.

    python benchmarks/moved_passages.py prepare cnews_1k.csv --folder moved
    (then the commands it prints)
    python benchmarks/moved_passages.py score moved

The first 200 tokens of each document are its deciding passage, and the only part of it that is kept. `unmoved` is the
passage followed by 600 or more tokens of neutral sentences; `moved` has the same sentences first and the passage
behind them. The sentences are drawn the same way for every class, so that they say nothing of it. Training and
validation hold half the documents of each class unmoved and half moved, as in a collection where the passage may be
anywhere; the test documents come in both arrangements. The truncating and the windowed run differ in `windows` only.
A token is counted here as one Chinese character or one word, which is at least one token to any tokenizer.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from finetune.progress import write
from finetune.scores.intervals import wilson

PASSAGE_TOKENS = 200
NEUTRAL_TOKENS = 600
SHARES = {"train": 0.55, "validation": 0.10, "test": 0.35}
TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
RESAMPLES = 2000
ARRANGEMENTS = ("unmoved", "moved")
WINDOWS = {
    "windowed": "{max_tokens: 256, stride: 64, aggregate: mean_logits}",
    "truncated": "{max_tokens: 256, stride: 64, truncate: true}",
}
RECIPE = """\
# Made by benchmarks/moved_passages.py.
task: text-classification
model:
  from_scratch:
    tokenizer: {tokenizer}
    vocab_size: 4000
    hidden_size: 128
    num_hidden_layers: 2
    num_attention_heads: 4
    intermediate_size: 512
    max_position_embeddings: 256
  attention_dropout: 0
data:
  source: {{train: train.csv, validation: validation.csv, test: unmoved.csv}}
  near_duplicates: null     # by design, most of every text is the same sentences
windows: {windows}
training:
  num_train_epochs: 24
  learning_rate: 1.0e-3
  per_device_train_batch_size: 8
  use_cpu: true
evaluation: {{baselines: [majority]}}
"""
CHINESE = (
    "这一段文字只是为了占据位置。", "读到这里的人可以继续往下看。", "下面的内容和前面没有直接关系。",
    "事情总是一件接着一件。", "有些话说过之后还会再说一遍。", "大家都知道时间过得很快。", "窗外的光慢慢移动着。",
    "桌上放着一个杯子和几张纸。", "他想了想，没有马上回答。", "这样的情况并不少见。",
    "过了一会儿，一切又安静下来。", "每个人都有自己的看法。", "也许明天会有新的消息。",
    "这句话本身没有特别的意思。", "走到门口的时候，他停了下来。", "天色渐渐暗了，灯一盏盏亮起来。",
    "她把信放回了原来的地方。", "没有人注意到这个小小的变化。", "路上的人来来往往。", "声音从很远的地方传来。",
    "有时候等待也是一种选择。", "他们沿着河边慢慢地走。", "这件事以后再说也不迟。", "书还翻在昨天的那一页。",
    "风从窗口吹进来，纸动了一下。", "大概就是这个样子。", "接下来还有一些类似的句子。", "说到这里，不妨先停一停。",
    "他点点头，表示听见了。", "这里没有需要特别记住的东西。",
)  # fmt: skip
ENGLISH = (
    "This passage is only here to take up room.", "Whoever has come this far may read on.",
    "One thing follows another, as it always does.", "Some remarks are made once and then made again.",
    "There was a cup on the table and a few sheets of paper.", "The light moved slowly across the floor.",
    "He thought for a moment and did not answer at once.", "Such a thing is not unusual.",
    "After a while everything was quiet again.", "Everybody has a view of their own.",
    "Perhaps there will be news tomorrow.", "The sentence has no particular meaning.",
    "At the door he stopped and looked back.", "It was getting dark, and the lamps came on one by one.",
    "She put the letter back where it had been.", "Nobody noticed the small change.",
    "People came and went along the road.", "A sound could be heard from far away.",
    "Waiting is sometimes a choice as well.", "They walked beside the water without hurry.",
    "There is no harm in leaving it for later.", "The book lay open at the page of the day before.",
    "A draught from the window moved the paper.", "That is roughly how it was.",
    "More sentences of the same kind will follow.", "Here it may be well to pause.",
    "He nodded to show that he had heard.", "Nothing in these lines needs to be remembered.",
)  # fmt: skip


def main() -> None:
    options = _options()
    if options.verb == "prepare":
        _prepare(options)
    else:
        write(sys.stdout, _score(options.folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Documents whose deciding passage was moved.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    prepare = verbs.add_parser("prepare", help="write the tables and recipes, print the commands")
    prepare.add_argument("source", type=Path, help="a csv file of long documents")
    prepare.add_argument("--text", default="text")
    prepare.add_argument("--label", default="label")
    prepare.add_argument("--documents", type=int, default=1000)
    prepare.add_argument("--seed", type=int, default=13)
    score = verbs.add_parser("score", help="compare the predictions of both runs")
    for verb in (prepare, score):
        verb.add_argument("folder" if verb is score else "--folder", type=Path, default=Path("moved"))
    return parser.parse_args()


def _prepare(options: argparse.Namespace) -> None:
    chance = random.Random(options.seed)
    documents = _passages(options)
    chance.shuffle(documents)
    documents = documents[: options.documents]
    chinese = _is_chinese(passage for passage, _ in documents)
    rows: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for split, number, (passage, label) in _divided(documents):
        both = _arranged(passage, _neutral(CHINESE if chinese else ENGLISH, "" if chinese else " ", chance))
        name = f"{split}-{number}"
        if split == "test":
            for arrangement in ARRANGEMENTS:
                rows[arrangement].append((name, both[arrangement], label))
        else:
            rows[split].append((name, both[ARRANGEMENTS[number % 2]], label))
    options.folder.mkdir(parents=True, exist_ok=True)
    for table, lines in rows.items():
        with open(options.folder / f"{table}.csv", "w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows([("id", "text", "label"), *lines])
    for kind, windows in WINDOWS.items():
        recipe = RECIPE.format(windows=windows, tokenizer="characters" if chinese else "wordpiece")
        (options.folder / f"{kind}.yaml").write_text(recipe, encoding="utf-8")
    write(sys.stdout, "\n".join([f"{name}: {len(lines)} documents" for name, lines in rows.items()]))
    write(sys.stdout, "\n".join(_commands(options.folder)))


def _commands(folder: Path) -> Iterable[str]:
    for kind in WINDOWS:
        run = folder / f"run-{kind}"
        yield f"finetune train {folder / kind}.yaml --run {run}"
        for arrangement in ARRANGEMENTS:
            output = folder / f"{kind}-{arrangement}.jsonl"
            yield f"finetune predict {run} --input {folder / arrangement}.csv --output {output}"
    yield f"python benchmarks/moved_passages.py score {folder}"


def _passages(options: argparse.Namespace) -> list[tuple[str, str]]:
    """The first tokens of every document that has enough of them, each passage once, with its label."""
    csv.field_size_limit(sys.maxsize)
    found = {}
    with open(options.source, encoding="utf-8-sig", newline="") as handle:
        for row in csv.DictReader(handle):
            ends = [match.end() for match in TOKEN.finditer(row[options.text])]
            if len(ends) >= PASSAGE_TOKENS:
                found[row[options.text][: ends[PASSAGE_TOKENS - 1]]] = row[options.label]
    return list(found.items())


def _divided(documents: Sequence[tuple[str, str]]) -> Iterable[tuple[str, int, tuple[str, str]]]:
    """Split, number inside class and split, document: the same shares of every class, and even and odd in turn."""
    by_label = defaultdict(list)
    for document in documents:
        by_label[document[1]].append(document)
    number = 0
    for label in sorted(by_label):
        rows, start, share = by_label[label], 0, 0.0
        for split, part in SHARES.items():
            share += part
            stop = round(share * len(rows))
            for row in rows[start:stop]:
                number += 1
                yield split, number, row
            start = stop


def _arranged(passage: str, neutral: str) -> dict[str, str]:
    return {"unmoved": f"{passage}\n\n{neutral}", "moved": f"{neutral}\n\n{passage}"}


def _neutral(sentences: Sequence[str], between: str, chance: random.Random) -> str:
    """All the sentences in a new order, again and again, until there are enough tokens."""
    chosen: list[str] = []
    tokens = 0
    while tokens < NEUTRAL_TOKENS:
        for sentence in chance.sample(sentences, len(sentences)):
            chosen.append(sentence)
            tokens += len(TOKEN.findall(sentence))
            if tokens >= NEUTRAL_TOKENS:
                break
    return between.join(chosen)


def _is_chinese(texts: Iterable[str]) -> bool:
    tokens = [token for text in texts for token in TOKEN.findall(text)]
    return sum("\u3400" <= token <= "\u9fff" for token in tokens) > len(tokens) / 2


def _score(folder: Path) -> str:
    """Accuracy of both runs on both arrangements with its interval, and the paired difference of the arrangements."""
    right = {(kind, arrangement): _right(folder, kind, arrangement) for kind in WINDOWS for arrangement in ARRANGEMENTS}
    classes = len({label for _, label in _labels(folder / "unmoved.csv")})
    lines = [f"chance: {1 / classes:.3f}"]
    for (kind, arrangement), marks in right.items():
        low, high = wilson(int(marks.sum()), len(marks))
        lines.append(f"{kind} on {arrangement}: accuracy {marks.mean():.3f} ({low:.3f} to {high:.3f}), n {len(marks)}")
    for kind in WINDOWS:
        differences = right[kind, "moved"].astype(float) - right[kind, "unmoved"]
        drawn = np.random.default_rng(0).integers(0, len(differences), size=(RESAMPLES, len(differences)))
        low, high = np.percentile(differences[drawn].mean(axis=1), (2.5, 97.5))
        lines.append(f"{kind}, moved less unmoved: {differences.mean():+.3f} ({low:+.3f} to {high:+.3f})")
    return "\n".join(lines)


def _right(folder: Path, kind: str, arrangement: str) -> np.ndarray:
    """Whether each test document was labelled rightly, in the order of the table."""
    lines = (folder / f"{kind}-{arrangement}.jsonl").read_text(encoding="utf-8").splitlines()
    predicted = [json.loads(line)["label"] for line in lines]
    labels = [label for _, label in _labels(folder / f"{arrangement}.csv")]
    return np.array([ours == theirs for ours, theirs in zip(predicted, labels, strict=True)])


def _labels(path: Path) -> list[tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as handle:
        return [(row["id"], row["label"]) for row in csv.DictReader(handle)]


if __name__ == "__main__":
    main()
