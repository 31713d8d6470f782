#!/usr/bin/env bash
# Train the bundled networks: clips, offsets, SyncNet, judge, generator, weights, figures.
#
#     recipes/starter/run.sh DATA WORK [LISTS]     # run it again to resume
#
# DATA has videos or preprocessed clips, in one folder per speaker. LISTS has train.txt and val.txt with different
# speakers; without it, a tenth of the speakers is held out. WORK receives everything, the weights in WORK/weights.
# The trainings see as many windows as those of the bundled weights, which took nine minutes on one H100. A CPU takes
# days: use SHARE and FROM there. Variables:
#
#     FROM=starter   continue from the bundled weights     SHARE=0.1   a tenth of the windows
#     DEVICE=auto    --device of all commands              AMP=off     on a processor without bf16
#     COMPILE=off    --compile; default with CUDA: graph for SyncNet, on for the generator
#     MORE="..."     flags for all trainings               BATCH=16    windows per step of the generator
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD"
recipe=recipes/starter
data=${1:?the folder of videos or clips} work=${2:?a folder for the results} lists=${3:-}
python=${PYTHON:-python3} amp=${AMP:-bf16} from=${FROM:-} share=${SHARE:-1}
device=$("$python" -c 'import sys; from wav2lip_npu.devices import device; print(device.resolve(sys.argv[1]))' "${DEVICE:-auto}")
if [[ $device == cpu ]]; then batch=${BATCH:-16}; else batch=${BATCH:-128}; fi
if [[ $device == cuda* ]]; then graph=${COMPILE:-graph} compile=${COMPILE:-on}; else graph=${COMPILE:-off} compile=$graph; fi
windows_syncnet=1280000 windows_judge=590000 windows_generator=910000

step() { # NAME COMMAND...
    local name=$1 begun=$SECONDS code=0
    shift
    echo "== $name"
    "$@" || code=$?
    echo "$name: $((SECONDS - begun)) s" | tee -a "$work/times.txt"
    return "$code"
}
wav2lip() { "$python" -m wav2lip_npu "$@"; }
# Print the steps for a number of windows, a multiple of the eight evaluations.
steps() { # WINDOWS BATCH
    "$python" -c 'import sys; w, b, s = map(float, sys.argv[1:]); print(8 * max(1, round(w * s / b / 8)))' "$1" "$2" "$share"
}
best() { "$python" $recipe/state.py "$1"; }

# A training resumes where the previous one in its folder ended.
train() { # NAME COMMAND STEPS FLAGS...
    local name=$1 command=$2 steps=$3
    shift 3
    step "$name, $steps steps" wav2lip "$command" --data_root "$clips" --filelists "$work/lists" \
        --checkpoint_dir "$work/$name" --device "$device" --amp "$amp" --steps "$steps" --cosine_steps "$steps" \
        --eval_interval $((steps / 8)) --checkpoint_interval $((steps / 8)) "$@" ${MORE:-}
}

mkdir -p "$work"
clips=$data
if [[ -z $(find -L "$data" -name audio.wav -print -quit) ]]; then
    clips=$work/clips
    # Videos that cannot be used are in the report; continue without them.
    step preprocess wav2lip preprocess --data_root "$data" --preprocessed_root "$clips" \
        --filelists "$work/all" --device "$device" || test $? = 1
fi
[[ -n $lists ]] || { lists=$work/split && step lists "$python" $recipe/lists.py "$clips" "$lists"; }
# Clips whose sound is early or late are shifted, if the bundled SyncNet can judge these people.
if [[ ! -e $work/lists/train.txt ]]; then
    step offsets wav2lip doctor "$clips" --filelists "$lists" --device "$device" --fix_offset \
        --syncnet_checkpoint_path starter --outdir "$work/lists" ||
        { mkdir -p "$work/lists" && cp "$lists"/*.txt "$work/lists"; }
fi

count=$(steps $windows_syncnet $((4 * batch)))
train syncnet train_syncnet "$count" --batch_size $((4 * batch)) --compile "$graph" $(<$recipe/syncnet.flags) \
    --warmup_steps $((count * 8 / 100)) ${from:+--checkpoint_path $from}
# Measures the result, and is never a loss: another seed, a smaller network.
count=$(steps $windows_judge $((4 * batch)))
train judge train_syncnet "$count" --batch_size $((4 * batch)) --compile "$graph" $(<$recipe/syncnet.flags) \
    --width 8 --seed 7
# SyncNet after 8 % of the steps, the discriminator after 60 %.
count=$(steps $windows_generator "$batch")
train generator train "$count" --batch_size "$batch" --compile "$compile" $(<$recipe/generator.flags) \
    --syncnet_checkpoint_path "$(best "$work/syncnet")" --warmup_steps $((count * 3 / 100)) \
    --sync_from $((count * 8 / 100)) --disc_from $((count * 60 / 100)) --ramp_steps $((count * 8 / 100)) \
    ${from:+--checkpoint_path $from --learning_rate 2e-4}

step pack "$python" $recipe/pack.py "$work"
step figures "$python" benchmarks/starter.py --clips "$clips" --list "$work/lists/val.txt" --sentences 16 \
    --judge "$(best "$work/judge")" --generator "$work/weights/generator.safetensors" \
    --syncnet "$work/weights/syncnet.safetensors" --out "$work/figures.json" | tee "$work/figures.md"
