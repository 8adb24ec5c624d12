#!/usr/bin/env bash
# Makes job.yaml and prepare.yaml, which stand alone, from base/. Needs kubectl, but no cluster.
set -euo pipefail
cd "$(dirname "$0")"

# render FOLDER FILE WHAT: the documents, with what to edit marked; kustomize keeps no comments but those of the TOML
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
# A Job that exists cannot be changed: kubectl delete job twofold-$1, then apply again; it resumes where it was.
# Delete the Job, not this file: kubectl delete -f, and kubectl replace --force, would delete the volume and all that is on it.
HEAD
        kubectl kustomize "base/$1" | sed -E \
            -e '/^        image: /s/$/ # EDIT: your registry and version/' \
            -e '/^        - kaggle:/s/$/ # EDIT: the photographs/' \
            -e '/^ {12}(cpu|memory|ephemeral-storage|nvidia\.com\/gpu): /s/$/ # EDIT/' \
            -e '/^      storage: /s/$/ # EDIT/'
    } >"$2"
}

render train job.yaml "twofold train, on one machine with its GPUs."
render prepare prepare.yaml "twofold prepare: photographs become shards on the volume that train reads."
