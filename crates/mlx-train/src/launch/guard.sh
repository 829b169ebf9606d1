# Runs a command in a process group of its own, and sends it the signals whose names come on standard input.
# Empty lines say that whoever gives these orders is still there. When none comes any more, the command ends.
# Arguments: seconds that it has to end by itself; seconds that may pass without a line; the command.
limit=$1 silence=$2
shift 2
exec 3<&0
set -m
MLX_TRAIN_LAUNCHER=$$ "$@" </dev/null 3<&- &
child=$!
set +m
tell() {
  kill -s "$1" -- "-$child"
}
tidy() {
  [ -z "$files" ] || rm -f "$files"
}
{
  while read -r -t "$silence" order <&3; do
    [ -z "$order" ] || tell "$order"
  done
  tell TERM
  sleep "$limit"
  tell KILL
  tidy
} >/dev/null 2>&1 &
listener=$!
# One that has been stopped does not end, nor do those that wait for it.
{
  seconds=0
  while kill -0 "$child" && [ "$seconds" -le "$limit" ]; do
    case $(ps -o stat= -p "$child") in
    T*) seconds=$((seconds + 1)) ;;
    *) seconds=0 ;;
    esac
    sleep 1
  done
  if [ "$seconds" -gt "$limit" ]; then
    kill -s USR2 $$
    tell KILL
  fi
} >/dev/null 2>&1 &
observer=$!
stopped=
trap 'stopped=yes' USR2
# What a terminal or a daemon says when it goes; the end of the input says it better.
trap : HUP
while :; do
  # The shell would tell of a signal, and so does whoever reads the status.
  { wait "$child"; } 2>/dev/null
  status=$?
  kill -0 "$child" 2>/dev/null || break
done
kill "$listener" "$observer" 2>/dev/null
[ -z "$stopped" ] || status=$((128 + $(kill -l STOP)))
tidy
exit "$status"
