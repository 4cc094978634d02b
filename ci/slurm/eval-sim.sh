#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-only
#
# The simulator's evaluation as a Slurm array, in a clone of the project on a file system that all nodes share:
#
#     cargo build --package xtask                       # once, before: the nodes run this program
#     sbatch --array=1-16 ci/slurm/eval-sim.sh --repeat 50
#     cargo xtask eval sim --repeat 50 --merge          # when all are done: tables and report
#
# Each task does its share of the runs and keeps them in target/eval/sim/runs; a task that was cut off goes on where it was.
#SBATCH --job-name=microslice-sim
#SBATCH --cpus-per-task=4
#SBATCH --mem=2G
#SBATCH --time=01:00:00
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
export RAYON_NUM_THREADS=${SLURM_CPUS_PER_TASK:-}
# The shards are counted by the array's size, so its indices are 1 to N.
exec target/debug/xtask eval sim --shard "${SLURM_ARRAY_TASK_ID:?run it by sbatch --array=1-N}/${SLURM_ARRAY_TASK_COUNT:?}" "$@"
