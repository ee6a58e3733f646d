"""Where a fact lives in a model: `memedit locate`.

tracing.py  causal tracing: noise over the subject, and one state given back (ROME, arXiv 2202.05262)
neurons.py  knowledge neurons: integrated gradients (arXiv 2104.08696)
sweep.py    which layer a method edits best
picture.py  heat maps
"""

from memedit.locate.neurons import Neurons, neurons
from memedit.locate.sweep import Swept, best, checked, sweep
from memedit.locate.tracing import KINDS, ROLES, Traced, averaged, trace

__all__ = [
    "KINDS",
    "ROLES",
    "Neurons",
    "Swept",
    "Traced",
    "averaged",
    "best",
    "checked",
    "neurons",
    "sweep",
    "trace",
]
