"""`finetune push`: a finished run goes to the Hub."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from finetune.errors import listed
from finetune.progress import Progress, size_text, write
from finetune.verbs import progress_of

if TYPE_CHECKING:
    from finetune.hub import Pushed


def push(arguments: argparse.Namespace) -> int:
    from finetune.hub import push as push_run

    progress = progress_of(arguments)

    def announce(planned: Pushed) -> None:
        if arguments.dry_run and not arguments.json:
            write(sys.stdout, "\n".join(listing(planned)))
        else:
            _say(listing(planned), progress)

    done = push_run(
        arguments.run_folder,
        arguments.repository,
        what=arguments.what,
        public=arguments.public,
        dry_run=arguments.dry_run,
        announce=announce,
        progress=progress,
    )
    if arguments.json:
        write(sys.stdout, json.dumps(asdict(done), ensure_ascii=False))
    elif done.state == "dry run":
        progress.say("nothing was uploaded (--dry-run)")
    else:
        write(sys.stdout, f"{done.state}: {done.url} ({'private' if done.private else 'public'}, commit {done.commit})")
    return 0


def listing(planned: Pushed) -> list[str]:
    """What will be uploaded, file by file with sizes; what stays here; what should be known."""
    seen_by = "private" if planned.private else "PUBLIC: everybody can read it"
    width = max(map(len, planned.files))
    total = sum(planned.files.values())
    lines = [f"{planned.repository} ({seen_by}), {planned.what}:"]
    lines += [f"  {name:<{width}}  {size_text(size):>8}" for name, size in planned.files.items()]
    lines.append(f"  {len(planned.files)} files, {size_text(total)}")
    if planned.left_out:
        lines.append(f"stays here: {listed(planned.left_out)}")
    return [*lines, *(f"note: {note}" for note in planned.notes)]


def _say(lines: list[str], progress: Progress) -> None:
    for line in lines:
        progress.say(line)
