#!/bin/sh
# The keeper of one local server: the only process that starts and stops it.
#
# It reads one step per line from standard input and answers each with its exit status. When the input ends, because
# the owner closed it or is no more, however it died, it stops the server and removes the folder. It runs in a process
# group of its own, as the user the server runs as, and ignores the signals that a terminal or a service manager sends
# to everyone: it goes when its owner does. A step that has begun is finished first, so nothing is started behind the
# clean-up's back.
#
# usage: keeper.sh BIN_DIR FOLDER
trap '' HUP INT QUIT TERM PIPE
umask 077
# The clean-up needs rm and head, wherever the owner's PATH leads.
PATH=${PATH:+$PATH:}/usr/bin:/bin
bin=$1
folder=$2
data=$folder/data
keep=no

# Runs pg_ctl with its words in tools.log. Nothing that it starts may hold this script's input or output open.
control() {
    "$bin/pg_ctl" "$@" -D "$data" </dev/null >>"$folder/tools.log" 2>&1
}

while read -r step argument; do
    status=0
    case $step in
        probe)
            [ -x "$bin/postgres" ] && [ -w "$folder" ] || status=1
            ;;
        initdb)
            "$bin/initdb" -D "$data" --username=postgres --auth=scram-sha-256 --pwfile="$folder/password" \
                --encoding=UTF8 --locale=C --no-sync </dev/null >>"$folder/tools.log" 2>&1 || status=$?
            rm -f "$folder/password"
            ;;
        start)
            control start -s -w -t 60 -l "$folder/server.log" || status=$?
            ;;
        stop)
            control stop -s -w -t 60 -m "$argument" || status=$?
            ;;
        keep)
            keep=yes
            ;;
        *)
            status=64
            ;;
    esac
    echo "$status"
done

[ "$keep" = no ] || exit 0
if [ -f "$data/postmaster.pid" ] && ! control stop -s -w -t 30 -m immediate; then
    # The server's other processes leave by themselves once their parent is gone.
    kill -KILL "$(head -n 1 "$data/postmaster.pid")"
fi
rm -rf "$folder"
