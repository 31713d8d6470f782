#!/usr/bin/env bash
# Train the bundled networks from raw videos: preprocess, doctor, SyncNet, judge, generator, evaluation.
#
#     recipes/starter/run.sh VIDEOS WORK                    # run it again to resume
#     FIRST_TENTH=yes recipes/starter/run.sh VIDEOS WORK    # a tenth of each training, compared with the stored curves
#
# VIDEOS contains grid/s1 and grid/others (GRID corpus, CC-BY-4.0) and clips/. WORK receives all results, 2 GB;
# WORK/times.txt has the duration of each step. DEVICE overrides --device auto. Set AMP=off on a processor
# without bf16.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD"
videos=${1:?the folder of videos} work=${2:?a folder for the results}
device=${DEVICE:-auto} amp=${AMP:-bf16} python=${PYTHON:-python3}
all_steps=8000

step() { # NAME COMMAND...
    local name=$1 begun=$SECONDS code=0
    shift
    echo "== $name"
    "$@" || code=$?
    echo "$name: $((SECONDS - begun)) s" | tee -a "$work/times.txt"
    return "$code"
}
wav2lip() { "$python" -m wav2lip_npu "$@"; }
newest() { ls "$1"/checkpoint_step*.pth | tail -n 1; }

shared=(--data_root "$work/clips" --device "$device" --amp "$amp" --eval_interval 500
    --checkpoint_interval 250 --keep 3)
a_little=(--flip 0.5 --stretch 0.06 --shift 0.02 --turn 4 --colour 0.15 --gamma 0.25 --blur 0.6 --noise 3
    --jpeg 0.4 --formants 0.04 --loudness 5 --tilt 4)
a_lot=(--flip 0.5 --stretch 0.12 --shift 0.04 --turn 8 --bend 0.03 --colour 0.25 --gamma 0.4 --blur 1.2
    --noise 6 --jpeg 0.7 --formants 0.1 --loudness 8 --tilt 8)

# Print the number of steps, with FIRST_TENTH at most a tenth of all steps.
so_far() { # STEPS ALL
    if [[ -n ${FIRST_TENTH:-} && $1 -gt $(($2 / 10)) ]]; then echo $(($2 / 10)); else echo "$1"; fi
}

# Each call resumes where the previous one in the same folder ended.
syncnet() { # STEPS RATE LISTS FLAGS...
    local steps rate=$2 lists=$3
    steps=$(so_far "$1" 7750)
    shift 3
    step "SyncNet to $steps" wav2lip train_syncnet "${shared[@]}" --checkpoint_dir "$work/syncnet" --width 8 \
        --average 0.998 --filelists "$work/lists/$lists" --eval_clips 40 --steps "$steps" --syncnet_lr "$rate" "$@"
}
judge() { # STEPS RATE FLAGS...
    local steps rate=$2
    steps=$(so_far "$1" 2000)
    shift 2
    step "judge to $steps" wav2lip train_syncnet "${shared[@]}" --checkpoint_dir "$work/judge" --width 8 --seed 7 \
        --average 0.998 --filelists "$work/lists/judge" --eval_clips 40 --steps "$steps" --syncnet_lr "$rate" "$@"
}
generator() { # STEPS RATE LISTS FLAGS...
    local steps rate=$2 lists=$3
    steps=$(so_far "$1" "$all_steps")
    shift 3
    step "generator to $steps" wav2lip train "${shared[@]}" --checkpoint_dir "$work/generator" --width 16 \
        --filelists "$work/lists/$lists" --syncnet_checkpoint_path "$(newest "$work/syncnet")" --batch_size 8 \
        --learning_rate "$rate" --warmup_steps 100 --clip_grad_norm 1 --reference_distance 10 \
        --steps "$steps" "$@"
}

mkdir -p "$work"
# Videos that cannot be used are in the report; continue without them.
step preprocess wav2lip preprocess --data_root "$videos" --preprocessed_root "$work/clips" \
    --filelists "$work/all" --device "$device" || test $? = 1
step lists "$python" recipes/starter/lists.py "$work/clips" "$work/lists"
step doctor wav2lip doctor "$work/clips" --filelists "$work/lists/syncnet" --device "$device" || test $? = 1

# All people first, then mostly the sentences, at a decreasing learning rate.
syncnet 2500 1e-4 syncnet "${a_little[@]}" --bend 0.01
syncnet 3500 3e-5 syncnet "${a_little[@]}" --bend 0.01
syncnet 4500 3e-5 syncnet --flip 0.5
syncnet 5000 3e-5 syncnet --flip 0.5 --same_clip 0.8
syncnet 6000 2e-5 syncnet_late --same_clip 0.8
syncnet 7000 5e-6 syncnet_late --same_clip 1
judge 1000 1e-4
judge 2000 3e-5 --same_clip 0.8
# First without SyncNet, to learn to reconstruct a face from its reference.
generator 1000 3e-4 generator --average 0.998 --eval_batches 10 --sync_weight 0 "${a_lot[@]}"
# Then lip motion: a SyncNet trained on few speakers causes artefacts, so its weight is low at first.
generator 1500 3e-4 generator --average 0.998 --eval_batches 5 --mouth_weight 4 --syncnet_wt 0.01 --sync_weight 0.01 \
    "${a_little[@]}" --bend 0.02
generator 2000 3e-4 generator --average 0.998 --eval_batches 5 --mouth_weight 4 --syncnet_wt 0.002 --sync_weight 0.002 \
    "${a_lot[@]}" --blur 0.6 --noise 3 --jpeg 0.4
generator 3500 3e-4 generator --average 0.995 --eval_batches 5 --mouth_weight 4 --syncnet_wt 0.005 --sync_weight 0.005 \
    --colour 0.1 --gamma 0.2 --formants 0.03 --loudness 5 --tilt 3
low_sync=(--eval_batches 5 --mouth_weight 4 --sync_floor 0.5 --syncnet_wt 0.01 --sync_weight 0.01)
high_sync=(--eval_batches 5 --mouth_weight 4 --sync_floor 0.5 --syncnet_wt 0.02 --sync_weight 0.02)
generator 5269 3e-4 generator_late --average 0.995 "${low_sync[@]}" --colour 0.1 --gamma 0.2 --loudness 5
generator 5366 3e-4 generator_late --average 0.995 "${high_sync[@]}" --colour 0.1 --gamma 0.2 --loudness 5
# Finally both: half of the samples unchanged, judged by SyncNet, and half strongly augmented.
both=(--untouched 0.5 --flip 0.5 --stretch 0.1 --shift 0.03 --turn 6 --bend 0.03 --colour 0.25 --gamma 0.4
    --blur 0.6 --noise 3 --jpeg 0.4 --formants 0.08 --loudness 8 --tilt 6)
generator 6057 3e-4 generator_last --average 0.995 "${high_sync[@]}" "${both[@]}"
generator 7083 3e-4 generator_last --average 0.995 "${low_sync[@]}" "${both[@]}"
generator "$all_steps" 1e-4 generator_last --average 0.998 "${low_sync[@]}" "${both[@]}"
if [[ -n ${FIRST_TENTH:-} ]]; then
    "$python" recipes/starter/curves.py "$work"
    exit
fi
# The SyncNet of the package; the generator was trained with the previous one.
syncnet 7750 5e-6 syncnet_late --same_clip 1

step pack "$python" recipes/starter/pack.py "$(newest "$work/generator")" "$(newest "$work/syncnet")"
step evaluation "$python" benchmarks/starter.py --clips "$work/clips" --lists "$work/lists" \
    --judge "$(newest "$work/judge")" --out "$work/figures.json" | tee "$work/figures.md"
