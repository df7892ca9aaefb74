#!/bin/sh
# `docker run IMAGE MODEL…` serves; `docker run IMAGE keys …` and the other verbs are those of the command.
set -eu
case "${1:-}" in
    keys | feedback | annotation | export | --version | --help) exec hanlin "$@" ;;
    serve) shift ;;
esac
exec hanlin serve "$@"
