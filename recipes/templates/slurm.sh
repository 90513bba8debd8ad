#!/usr/bin/env bash
# One run of a matrix as a SLURM job: `scripts/reproduce.py run MATRIX --submit recipes/templates/slurm.sh` fills in the fields
# marked with an @ and runs the command of the next line.
#submit: sbatch --parsable @{script}
#SBATCH --job-name=@{name}
#SBATCH --output=@{log}
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# The runner resumes runs that a time limit or a failed node interrupted.
#SBATCH --requeue
set -euo pipefail
cd -- @{root}
exec @{command}
