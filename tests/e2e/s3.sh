#!/bin/bash
# An S3 API server with truthful conditional puts: versitygw, its files in a folder.
#
#   tests/e2e/s3.sh run PORT DIR   installs it if needed and runs it in the foreground; bucket "pipe" is there
#   tests/e2e/s3.sh wait PORT      returns when it answers (30 s at most)
#   tests/e2e/s3.sh env PORT       prints what clients need, for eval
#
# Needs Go (the module proxy) for the first install; nothing else.
set -euo pipefail

version=v1.8.0
bin=${PIPE_E2E_BIN:-$HOME/.cache/pipe-e2e/versitygw-$version}
export ROOT_ACCESS_KEY=pipe-e2e ROOT_SECRET_KEY=pipe-e2e-secret

case ${1:-} in
run)
    port=$2 dir=$3
    if [ ! -x "$bin/versitygw" ]; then
        mkdir -p "$bin"
        GOBIN=$bin GOFLAGS=-trimpath go install "github.com/versity/versitygw/cmd/versitygw@$version" >&2
    fi
    mkdir -p "$dir/data/pipe" "$dir/meta"
    # The sidecar keeps metadata in files, so that any file system will do.
    exec "$bin/versitygw" --port "127.0.0.1:$port" --quiet posix --sidecar "$dir/meta" "$dir/data"
    ;;
wait)
    for _ in $(seq 300); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then exit 0; fi
        sleep 0.1
    done
    echo "no S3 server on port $2" >&2
    exit 1
    ;;
env)
    echo "export PIPE_TEST_S3=http://127.0.0.1:$2 AWS_ENDPOINT=http://127.0.0.1:$2 AWS_ENDPOINT_URL=http://127.0.0.1:$2"
    echo "export AWS_ACCESS_KEY_ID=$ROOT_ACCESS_KEY AWS_SECRET_ACCESS_KEY=$ROOT_SECRET_KEY AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true"
    ;;
*)
    sed -n '2,9p' "$0" >&2
    exit 2
    ;;
esac
