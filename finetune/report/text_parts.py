"""What only a text generator's page has: its texts after every epoch, the best and the worst, sequences, decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune.progress import WARNING
from finetune.report.data_parts import CHARACTERS, length_names, length_table
from finetune.report.page import Child, Markup, joined, tag
from finetune.report.parts import Column, by_split, command, facts, foot, label, notes, share, table
from finetune.report.scoring_command import scoring_command
from finetune.report.sentences import number
from finetune.report.strings import Words
from finetune.run_files import Analysis, Samples, ShownText, SplitScores
from finetune.runs import Json

MOST_DOCUMENTS = 20
MOST_EPOCHS = 8  # of one document, side by side
COUNTS = ("documents", "documents_dropped", "sequences", "tokens", "learnt_tokens", "documents_cut", "tokens_cut")
LENGTHS = ("median", "p90", "p95", "p99", "longest", "window_tokens", "over_one_window")
SHOTS = "examples"  # of the section `generation`: texts of the user's, which only the recipe shows
OF_FORM = {"prompt_tokens": "text", "chat_template": "chat"}  # settings that only one form of examples has


def samples(found: Sequence[Samples], best_epoch: float | None, form: str, words: Words) -> list[Child]:
    """Each shown document once, and below it what was written for it after every epoch, side by side."""
    documents = found[-1].texts if found else []
    if not documents:
        return []
    chosen = next((index for index, each in enumerate(found) if each.epoch == best_epoch), None)
    shown = _shown_epochs(len(found), chosen)
    hidden, more = len(found) - len(shown), len(documents) - MOST_DOCUMENTS
    return [
        tag("p", words("samples.about", n=min(len(documents), MOST_DOCUMENTS))),
        [
            _document(document, [found[index] for index in shown], best_epoch, form, words)
            for document in documents[:MOST_DOCUMENTS]
        ],
        foot(words("samples.hidden_epochs", shown=len(shown), all=len(found))) if hidden else None,
        foot(words("samples.hidden", n=more)) if more > 0 else None,
    ]


def _shown_epochs(count: int, chosen: int | None) -> list[int]:
    """Evenly spread numbers of evaluations, with the first, the last and the chosen one."""
    if count <= MOST_EPOCHS:
        return list(range(count))
    spread = {round(place * (count - 1) / (MOST_EPOCHS - 1)) for place in range(MOST_EPOCHS)}
    if chosen is None or chosen in spread:
        return sorted(spread)
    nearest = min(spread - {0, count - 1}, key=lambda index: abs(index - chosen))
    return sorted(spread - {nearest} | {chosen})


def _document(
    document: ShownText, epochs: Sequence[Samples], best_epoch: float | None, form: str, words: Words
) -> Markup:
    written: list[Child] = []
    for each in epochs:
        text = next((text for text in each.texts if text.id == document.id), None)
        if text is not None:
            is_best = each.epoch == best_epoch
            head = words("samples.best" if is_best else "samples.epoch", epoch=f"{each.epoch:g}")
            written.append(_written(text, head, words, chosen=is_best))
    given = tag("div", _given(document, form, words), class_="given")
    return tag("article", _named(document, words), given, tag("div", written, class_="epochs"), class_="case")


def _named(document: ShownText, words: Words) -> Markup:
    where: list[Child] = [words("id"), " ", tag("code", label(document.id))]
    if document.group is not None:
        where += [" ", words("group"), " ", tag("code", label(document.group))]
    return tag("p", where, class_="small")


def _given(document: ShownText, form: str, words: Words) -> list[Child]:
    """What the model was given, and what it should have written."""
    named = [(words.known("given", form), document.prompt), (words("texts.reference"), document.reference)]
    return [_said(name, tag("blockquote", text)) for name, text in named]


def _written(text: ShownText, head: str, words: Words, *, chosen: bool = False) -> Markup:
    """One text of the model's under its heading; of an empty one that it is empty."""
    known = [head, words("texts.chrf", value=number(text.chrf, "chrf")) if text.chrf is not None else ""]
    line: list[Child] = [" · ".join(fact for fact in known if fact)]
    if text.cut:
        line += [" · ", tag("span", words("texts.cut"), class_="wrong")]
    nothing = tag("p", tag("em", words("texts.empty")))
    return _said(line, tag("blockquote", text.prediction) if text.prediction.strip() else nothing, chosen=chosen)


def _said(head: Child, inside: Markup, *, chosen: bool = False) -> Markup:
    return tag("div", tag("p", head, class_="small"), inside, class_="said chosen" if chosen else "said")


def best_and_worst(analysis: Analysis | None, form: str, words: Words) -> list[Child]:
    """Test documents to read: the texts nearest to their references, and those farthest from them."""
    if analysis is None:
        return []
    blocks: list[Child] = []
    for kind, shown in (("best", analysis.best_texts), ("worst", analysis.worst_texts)):
        if shown:
            blocks.append(tag("h3", words(f"texts.{kind}")))
            for each in shown:
                result = _written(each, words("texts.written"), words, chosen=True)
                given = tag("div", _given(each, form, words), result, class_="given")
                blocks.append(tag("article", _named(each, words), given, class_="case"))
    return [tag("p", words("texts.about")), *blocks] if blocks else []


def sequences(report: Json, fill_rate: float | None, words: Words) -> list[Child]:
    """What became of the documents in tokens: what was cut or dropped, how long they are, how full the blocks were."""
    windows: Mapping[str, Json] = report.get("windows") or {}
    if not windows:
        return []
    totals = {key: sum(int(each.get(key) or 0) for each in windows.values()) for key in COUNTS}
    counts = by_split(windows, {key: words(f"sequences.{key}") for key in COUNTS})
    columns = [Column(words("lengths.figure")), *(Column(words.known("split", split)) for split in windows)]
    told = [_of_split(split, note) for split, each in windows.items() for note in each.get("notes", [])]
    names = length_names(LENGTHS, words) | {
        "window_tokens": words("sequences.limit"), "over_one_window": words("sequences.over_limit"),
    }  # fmt: skip
    return [
        [tag("p", sentence) for sentence in _kept(totals, fill_rate, words)],
        table(words("sequences.caption"), columns, counts),
        [
            length_table(words(f"sequences.{key}"), _audits(windows, key), names, words)
            for key in ("lengths", "target_lengths")
        ],
        [
            length_table(words(f"sequences.{key}"), report.get(key) or {}, length_names(CHARACTERS, words), words)
            for key in ("characters", "target_characters")
        ],
        notes(told, words),
    ]


def _of_split(split: str, note: str) -> str:
    plain = note.removeprefix(WARNING)
    return f"{WARNING if plain != note else ''}{split}: {plain}"


def _kept(totals: Mapping[str, int], fill_rate: float | None, words: Words) -> list[str]:
    cut, dropped = totals["documents_cut"], totals["documents_dropped"]
    told = [words("sequences.whole")] if not cut and not dropped else []
    if cut:
        told.append(words("sequences.cut", documents=f"{cut:,}", tokens=f"{totals['tokens_cut']:,}"))
    if dropped:
        told.append(words("sequences.dropped", documents=f"{dropped:,}"))
    if fill_rate is not None:
        told.append(words("sequences.fill", share=share(fill_rate)))
    return told


def _audits(windows: Mapping[str, Json], key: str) -> dict[str, Json]:
    return {split: each[key] for split, each in windows.items() if each.get(key)}


def decoding(
    generation: Mapping[str, object], form: str, seed: int, scores: SplitScores, split: str, words: Words
) -> list[Child]:
    """How the model wrote, and how anyone gets the same BLEU and chrF from what it wrote."""
    listed = facts([(name, tag("code", label(value))) for name, value in shown_settings(generation, form)])
    signed = facts([(name, tag("code", signature)) for name, signature in scores.signatures.items()])
    again = scoring_command(scores.signatures, split)
    return [
        tag("p", _manner(generation, seed, words)) if generation else None,
        _shots(generation.get(SHOTS), words),
        listed,
        joined(tag("h3", words("signatures")), signed) if signed else None,
        joined(tag("p", words("signatures.again")), command(again)) if again else None,
    ]


def shown_settings(generation: Mapping[str, object], form: str) -> list[tuple[str, object]]:
    """The settings of the section `generation` that this form of examples has, without texts of the user's."""
    return [
        (name, value) for name, value in generation.items()
        if value is not None and name != SHOTS and OF_FORM.get(name, form) == form
    ]  # fmt: skip


def _manner(generation: Mapping[str, object], seed: int, words: Words) -> str:
    """Greedy, a beam search, or drawn: in a sentence."""
    if generation.get("do_sample"):
        own = generation.get("seed")
        return words("decoding.drawn", seed=seed if own is None else own)
    beams = generation.get("num_beams")
    return words("decoding.beams", beams=beams) if isinstance(beams, int) and beams > 1 else words("decoding.greedy")


def _shots(shots: object, words: Words) -> Markup | None:
    return tag("p", words("decoding.shots", n=len(shots))) if isinstance(shots, list) and shots else None


def glossary(metrics: Sequence[str], words: Words) -> Markup | None:
    """What the scores of written text say, each in a line."""
    found = [(name, words.known("score", name)) for name in metrics]
    listed = facts([(name, told) for name, told in found if told != name])
    return joined(tag("h3", words("score.about")), listed) if listed else None
