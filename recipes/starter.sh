#!/usr/bin/env bash
# The starter from the raw videos on: preprocess, doctor, expert, judge, generator, evaluation.
#
#     recipes/starter.sh VIDEOS WORK        # killed at any moment, the same line goes on
#
# VIDEOS holds grid/s1 and grid/others (GRID corpus, CC-BY-4.0) and clips/. WORK gets everything that is made,
# 2 GB of it; WORK/times.txt says how long each step took on this machine. The device is what --device auto
# finds, or DEVICE; AMP=off where a processor has no bf16.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
videos=${1:?the folder of videos} work=${2:?a folder for the results}
device=${DEVICE:-auto} amp=${AMP:-bf16} python=${PYTHON:-python3}

step() { # NAME COMMAND...
    local name=$1 begun=$SECONDS
    shift
    echo "== $name"
    "$@"
    echo "$name: $((SECONDS - begun)) s" | tee -a "$work/times.txt"
}
wav2lip() { "$python" -m wav2lip_npu "$@"; }
newest() { ls "$1"/checkpoint_step*.pth | tail -n 1; }

shared=(--data_root "$work/clips" --device "$device" --amp "$amp" --width 8 --average 0.998
    --checkpoint_interval 500 --eval_interval 500 --keep 2)
a_little=(--flip 0.5 --stretch 0.06 --shift 0.02 --turn 4 --bend 0.01 --colour 0.15 --gamma 0.25
    --blur 0.6 --noise 3 --jpeg 0.4 --formants 0.04 --loudness 5 --tilt 4)
a_lot=(--flip 0.5 --stretch 0.12 --shift 0.04 --turn 8 --bend 0.03 --colour 0.25 --gamma 0.4
    --blur 1.2 --noise 6 --jpeg 0.7 --formants 0.1 --loudness 8 --tilt 8)
generator=(--filelists "$work/lists/generator" --checkpoint_dir "$work/generator" --batch_size 8
    --warmup_steps 200 --clip_grad_norm 1 --reference_distance 10 --eval_batches 10)

mkdir -p "$work"
# A video that cannot be used is named in its report, and is no reason to stop.
step preprocess wav2lip preprocess --data_root "$videos" --preprocessed_root "$work/clips" \
    --filelists "$work/all" --device "$device" || test $? = 1
step lists "$python" recipes/starter_lists.py "$work/clips" "$work/lists"
step doctor wav2lip doctor "$work/clips" --filelists "$work/lists/expert" --device "$device" || test $? = 1
step expert wav2lip train_syncnet "${shared[@]}" --filelists "$work/lists/expert" \
    --checkpoint_dir "$work/expert" --eval_clips 40 --steps 6000 "${a_little[@]}"
step judge wav2lip train_syncnet "${shared[@]}" --filelists "$work/lists/judge" \
    --checkpoint_dir "$work/judge" --eval_clips 40 --steps 3000 --seed 7
expert=$(newest "$work/expert")
# First to know faces from a reference, by their pixels alone; then to be in sync.
step "generator, faces" wav2lip train "${shared[@]}" "${generator[@]}" "${a_lot[@]}" \
    --syncnet_checkpoint_path "$expert" --sync_weight 0 --learning_rate 3e-4 --steps 5000
step "generator, sync" wav2lip train "${shared[@]}" "${generator[@]}" "${a_lot[@]}" \
    --syncnet_checkpoint_path "$expert" --syncnet_wt 0.01 --learning_rate 1e-4 --steps 7000
step pack "$python" recipes/starter_pack.py "$(newest "$work/generator")" "$expert"
step evaluation "$python" benchmarks/starter.py --clips "$work/clips" --lists "$work/lists" \
    --judge "$(newest "$work/judge")" --out "$work/figures.json" | tee "$work/figures.md"
