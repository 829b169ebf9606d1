# Runs a command as a rank of mpirun, which passes SIGUSR1 on to all processes of a rank, and kills them soon after
# SIGTERM. So SIGUSR1 asks: the command gets SIGTERM for it, and has time. Its failure is told with its status.
(
  trap '' USR1
  exec env MLX_TRAIN_LAUNCHER=$$ "$@"
) &
child=$!
trap 'kill -s TERM "$child" 2>/dev/null' USR1
while :; do
  { wait "$child"; } 2>/dev/null
  status=$?
  kill -0 "$child" 2>/dev/null || break
done
[ "$status" = 0 ] || echo "launch: ended with status $status" >&2
exit "$status"
