from memedit.scope import *
from memedit.scope import TREES
import sys, time
from memedit.combiner import Trees
import numpy as np
class Progress:
    def __init__(self): self.t=time.time(); self.l=[]
    def steps(self, i, n, loss):
        self.l.append(loss)
        if i%50==0:
            print(f"{i}/{n} loss {sum(self.l[-50:])/50:.3f} {64*len(self.l)/(time.time()-self.t):.1f} pairs/s", file=sys.stderr, flush=True)
def untrained(encoder, out):
    made={"format":FORMAT,"features":list(FEATURES),"encoder":{"name":encoder.name,"dim":encoder.dim,"digest":encoder.digest,"shipped":True},"platt":{},"pair":{"lower":3,"digest":encoder.digest},"gate":-6.0}
    plain=dict.fromkeys(("masked","whole"),np.eye(encoder.dim,dtype=np.float32))
    return ScopeClassifier(made,{k:Trees.nothing() for k in TREES},plain,out,encoder)
def minilm(e): return e.encoder
