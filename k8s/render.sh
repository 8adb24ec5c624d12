#!/usr/bin/env bash
# Makes job.yaml and prepare.yaml, which stand alone, from base/. Needs kubectl, but no cluster.
set -euo pipefail
cd "$(dirname "$0")"

# render FOLDER FILE WHAT MORE [SED...]: the documents, with what to edit marked; kustomize keeps no comments but those of the TOML
render() {
    {
        cat <<HEAD
# $3
# Made by k8s/render.sh from k8s/base, where the reasons stand; docs/kubernetes.md has a table of the fields.
#
# 1. Edit the lines marked EDIT. What the program does is set in the TOML alone.
# 2. kubectl apply -f $2
# 3. kubectl logs --follow job/twofold-$1
#
# $4
#
# A Job that exists cannot be changed: kubectl delete job twofold-$1, then apply again; it resumes where it was.
# Delete the Job, not this file: kubectl delete -f, and kubectl replace --force, would delete the volume and all that is on it.
HEAD
        kubectl kustomize "base/$1" | sed -E \
            -e '/^        image: /s/$/ # EDIT: your registry and version/' \
            -e '/^        - kaggle:/s/$/ # EDIT: the photographs/' \
            -e '/^ {12}(cpu|memory|ephemeral-storage|nvidia\.com\/gpu): /s/$/ # EDIT/' \
            -e '/^      storage: /s/$/ # EDIT/' \
            "${@:5}"
    } >"$2"
}

render train job.yaml "twofold train, on one machine with its GPUs." \
    "With data and runs in buckets no volume is needed: name them in the TOML, delete the PersistentVolumeClaim and the lines
# marked CLAIM, and uncomment that marked BUCKET." \
    -e '/^        - mountPath: \/twofold$/,+1s/$/ # CLAIM/' \
    -e '/^      - name: work$/,+2s/$/ # CLAIM/' \
    -e '/^      restartPolicy: /i\      # serviceAccountName: twofold # BUCKET: an account that may use it, as in overlays/gke and overlays/eks'
render prepare prepare.yaml "twofold prepare: photographs become shards on the volume that train reads." \
    "The shards may go to a bucket too: the volume then holds what is not sent yet, and the pod needs an account (docs/kubernetes.md)."
