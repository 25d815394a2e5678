#!/usr/bin/env bash
# Every command from the nuScenes download to the tables of the paper, in order; what each does: docs/reproduce.md.
#
#   scripts/reproduce_nuscenes.sh --data /data/nuscenes --weights /data/bevformer     # eight GPUs
#   scripts/reproduce_nuscenes.sh --synthetic                                         # today: nano, synthetic scenes
#
#   scripts/reproduce_nuscenes.sh --synthetic --quick                                 # in minutes: does every command run?
#
# Options: --models "tiny small base", --gpus 8, --recipe paper|ours, --store FOLDER, --dry-run.
set -euo pipefail

data="" weights="" models="tiny small base" gpus=8 recipe=paper store=runs synthetic=0 quick=0
dry=()
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data=$2; shift ;;
    --weights) weights=$2; shift ;;
    --models) models=$2; shift ;;
    --gpus) gpus=$2; shift ;;
    --recipe) recipe=$2; shift ;;
    --store) store=$2; shift ;;
    --synthetic) synthetic=1 ;;
    --quick) quick=1 ;;
    --dry-run) dry=(--dry-run) ;;
    *) echo "unknown option $1; see the first lines of $0" >&2; exit 2 ;;
  esac
  shift
done
if [ $synthetic = 0 ] && { [ -z "$data" ] || [ -z "$weights" ]; }; then
  echo "give --data FOLDER (nuScenes) and --weights FOLDER (the authors' three .pth files), or --synthetic" >&2
  exit 2
fi
if [ $quick = 1 ] && [ $synthetic = 0 ]; then echo "--quick is for --synthetic alone" >&2; exit 2; fi
case "$recipe" in paper|ours) ;; *) echo "--recipe is $recipe; it must be paper or ours" >&2; exit 2 ;; esac

train_samples=28130           # key frames of the train split of v1.0-trainval
epochs_stage=15 epochs_vgd=20 # figures 1 and 3: four stages in 60 epochs, then 20; section 4.1.3 says 24 in each step
batch() { case "$1" in tiny) echo 6 ;; *) echo 1 ;; esac; } # per GPU, supplement A.2
file() { case "$1" in tiny) echo bevformer_tiny_epoch_24.pth ;; small) echo bevformer_small_epoch_24.pth ;; base) echo bevformer_r101_dcn_24ep.pth ;; esac; }
steps() { echo $((($2 * train_samples + $3 * gpus - 1) / ($3 * gpus))); } # MODEL EPOCHS BATCH

show() { printf '\n==== qdbev %s\n' "$*"; }
alone() { show "$@"; qdbev "$@" ${dry[@]+"${dry[@]}"} --store "$store"; }
together() {
  show "$@"
  if [ "$gpus" = 1 ]; then qdbev "$@" ${dry[@]+"${dry[@]}"} --store "$store"; else
    torchrun --standalone --nproc_per_node "$gpus" -m qdbev_cli "$@" ${dry[@]+"${dry[@]}"} --store "$store"; fi
}

qdbev doctor || echo "(doctor found something; see above)" >&2
if [ $synthetic = 1 ]; then models=nano gpus=1; else qdbev data prepare --root "$data" --version v1.0-trainval; fi

for model in $models; do
  settings=(--model "$model")
  if [ $synthetic = 0 ]; then
    size=$(batch "$model")
    alone import-weights "$weights/$(file "$model")" --model "$model"
    settings+=(--set "data.source=$data" --set data.workers=4
      --set "qat.batch_size=$size" --set "qat.steps_per_stage=$(steps "$model" $epochs_stage "$size")"
      --set "distillation.schedule.batch_size=$size"
      --set "distillation.schedule.steps=$(steps "$model" $epochs_vgd "$size")")
  fi
  if [ $quick = 1 ]; then # a handful of scenes, one step a stage: shows that every command runs, and nothing else
    settings+=(--set data.train_scenes=3 --set data.val_scenes=2 --set data.key_frames=4 --set calibration.samples=4
      --set evaluation.max_boxes=30 --set evaluation.bootstrap_resamples=4
      --set qat.batch_size=1 --set qat.steps_per_stage=1
      --set distillation.schedule.batch_size=1 --set distillation.schedule.steps=1 --set distillation.auto_steps=1)
  fi
  together evaluate --profile float "${settings[@]}"                      # is the float score the known one?
  if [ "$recipe" = paper ]; then settings+=(--recipe paper); fi
  together sensitivity --profile w4a6 "${settings[@]}"                    # table 1
  for bits in w8a8 w6a6 w4a6 w4a4; do                                     # table 2
    together calibrate --profile "$bits" "${settings[@]}"
    made=("calibration:$bits$([ "$recipe" = ours ] || echo "-$recipe")-$model")
    [ ${#dry[@]} = 0 ] || made=() # nothing was made
    together evaluate ${made[@]+"${made[@]}"} --profile "$bits" "${settings[@]}"
  done
  together compress --profile w4a6 --stages 4 "${settings[@]}"            # tables 3 and 4: progressive QAT, then VGD
  together qat-progressive --profile w4a6 --stages 1 "${settings[@]}"     # table 3: standard QAT
  alone report --profile w4a6 --model "$model" --format md
done
alone report --paper
