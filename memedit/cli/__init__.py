"""The `memedit` command. Each module holds the commands of one purpose; heavy imports happen inside them.

edits.py     add-fact, erase-fact, update
takeback.py  forget, undo, log
prepare.py   prepare
merge.py     merge
locate.py    locate
resolve.py   conflicts
transfer.py  import, export (adapters.py: as PEFT adapters)
look.py      list, show, search, history, stats
ask.py       ask, route, generate, demo
chat.py      chat
backup.py    backup, restore, compact
upkeep.py    doctor, rebuild, methods
evaluate.py  eval
bench.py     bench
train.py     train scope, train base
demos.py     demos build, show, list, remove
evalscope.py eval scope
harness.py   harness
trials.py    eval pushback, eval pitfalls, eval erasure, eval opinions
report.py    report
"""

from __future__ import annotations

from memedit.cli._group import main
from memedit.cli.ask import ask, demo, generate, route
from memedit.cli.backup import backup, compact, restore
from memedit.cli.bench import bench
from memedit.cli.chat import chat
from memedit.cli.demos import demos
from memedit.cli.edits import add_fact, erase_fact, update
from memedit.cli.evalscope import scope as eval_scope
from memedit.cli.evaluate import eval_
from memedit.cli.harness import harness
from memedit.cli.locate import locate
from memedit.cli.look import history, list_, search, show, stats
from memedit.cli.merge import merge
from memedit.cli.prepare import prepare
from memedit.cli.report import report
from memedit.cli.resolve import conflicts
from memedit.cli.takeback import forget, log, undo
from memedit.cli.train import train
from memedit.cli.transfer import export, import_
from memedit.cli.trials import erasure, opinions, pitfalls, pushback
from memedit.cli.upkeep import doctor, methods, rebuild

for command in (
    add_fact, erase_fact, import_, export, update, forget, undo, log, conflicts,
    list_, show, search, history, stats,
    ask, chat, route, generate, demo, demos, prepare, merge, locate,
    backup, restore, compact,
    doctor, rebuild, methods, bench, eval_, harness, report, train,
):  # fmt: skip
    main.add_command(command)

__all__ = ["erasure", "eval_scope", "main", "opinions", "pitfalls", "pushback"]
