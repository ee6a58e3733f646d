#!/bin/sh
# Makes the tables of this folder again: sh docs/results/run.sh DATA [NAME ...], from the project's root.
# DATA is the folder of the public sets; NAMEs are those below, all if none is given. Answers are kept in runs/results, so
# that a run which was stopped goes on. Each NAME/ then holds report.md, scores.csv and the figures.
set -eu
data=$1
shift
bin=${MEMEDIT:-.venv/bin/memedit}
mkdir -p runs/results

# made NAME COMMAND...: run it unless other names were asked for; the page with all answers stays in runs/results
made() {
  name=$1
  shift
  case " $wanted " in "  " | *" $name "*) ;; *) return 0 ;; esac
  echo "$name: $(date)"
  "$bin" "$@" --json "runs/results/$name.json" --report "runs/results/$name" >"runs/results/$name.txt"
  mkdir -p "docs/results/$name"
  cp "runs/results/$name/"*.md "runs/results/$name/"*.csv "runs/results/$name/"*.png "docs/results/$name/"
}
wanted="$*"

made counterfact eval --data "$data/counterfact/counterfact-val.json" --limit 1000 --method ice,serac,oracle \
  --unrelated "$data/general_qa/nq_open_dev_clean.jsonl"
made counterfact-hard eval --data "$data/eren/counterfact_hard_dev.json" --questions 4 --no-forced --method ice,serac,oracle
made knowedit eval --data "$data/knowedit/wiki_counterfact_train.json" --data "$data/knowedit/wiki_recent_train.json" \
  --split dev --max-new-tokens 32 --method ice,serac,oracle
made zsre eval --data "$data/zsre/zsre_mend_train-1k.json" --split dev --skip-bad --method ice,serac,oracle
made mquake eval --data "$data/mquake/mquake_hard_dev.json" --data "$data/mquake/mquake_stubborn2_dev.json" --limit 150 \
  --questions 3 --no-forced --method mello,ice,oracle
head -n 200 "$data/general_qa/nq_open_dev_clean.jsonl" >runs/results/nq200.jsonl
made methods eval --data "$data/knowedit/wiki_counterfact_train.json" --split dev --limit 40 --max-new-tokens 32 --sampled 100 \
  --method ice,ike,serac,rome,memit,pmet,alphaedit,ultraedit,ft-m,lora,mend,grace,t-patcher,kn --set ike.k=8 \
  --unrelated runs/results/nq200.jsonl
made fill eval --data "$data/counterfact/counterfact-val.json" --limit 100 --fill 100,1000,10000 --folder "$data" --no-forced \
  --method ice,serac
made pitfalls eval pitfalls --data "$data/pitfalls" --limit 50 --method ice,serac
made pitfalls-merged eval pitfalls --data "$data/pitfalls" --limit 8 --merged rome,ft-m
made erasure eval erasure --data "$data/counterfact/counterfact-val.json" --limit 200 --method ice,serac
made pushback eval pushback --limit 50 --method ice,serac
made opinions eval opinions
