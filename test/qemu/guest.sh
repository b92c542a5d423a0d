#!/bin/bash
# Runs in the machine, from its second disk, with the serial console as standard output. The step is on the kernel's command line.
step=$(sed -n 's/.*hf\.step=\([a-z]*\).*/\1/p' /proc/cmdline)
say() { echo "$@" >/dev/ttyS0; }
patience=$(sed -n 's/.*hf\.wait=\([0-9]*\).*/\1/p' /proc/cmdline) # seconds
up() { cut -d. -f1 /proc/uptime; } # a clock that nobody sets
# soon UNIT COMMAND... waits for the command to be true, or says what the unit has said.
soon() {
  local unit=$1 end=$(($(up) + patience))
  shift
  until "$@"; do
    if (($(up) > end)); then
      say "WAITED TOO LONG for: $*"
      journalctl --no-pager -b -u "$unit" -n 40 >/dev/ttyS0
      return 1
    fi
    sleep 0.2
  done
}
ready() { curl -sf --max-time 5 localhost:2379/readyz >/dev/null; }
serving() { soon holdfast ready; }

put() { curl -sf --max-time 20 -X PUT --data-binary "$2" "localhost:2379/v1/kv/$1"; }
read_key() { curl -sf --max-time 20 "localhost:2379/v1/kv/$1"; }
main_pid() { systemctl show -p MainPID --value holdfast; }
# other_pid PID waits for the agent that comes after that one, and is ready.
is_other() { now=$(main_pid) && [[ $now != 0 && $now != "$1" ]]; }
other_pid() { soon holdfast is_other "$1" && serving; }

case $step in
load)
  mkdir -p /etc/systemd/system/holdfast.service.d
  echo swordfish >/etc/join-token && chmod 600 /etc/join-token
  printf '[Service]\nMemoryMax=128M\nLoadCredential=token:/etc/join-token\n' >/etc/systemd/system/holdfast.service.d/test.conf
  dpkg -i /lab/holdfast.deb >/dev/ttyS0 2>&1
  systemctl enable --now holdfast
  serving
  sync
  for ((i = 0; ; i++)); do
    curl -sf --max-time 20 -X PUT --data-binary "$i" "localhost:2379/v1/kv/load/$i" >/dev/null && say "ACK $i."
  done
  ;;
after)
  serving
  # systemd moves a clock of 1970 to when it was built itself, so that the box without a battery is made here.
  date -s 1970-01-02 >/dev/null && systemctl restart holdfast
  serving
  say "DATE $(date -u +%Y)."
  agent kv ls load/ --limit 0 | sed -n 's/^load\/\([0-9]*\) .* \1$/\1/p' | while read -r key; do say "HAVE $key."; done
  pid=$(systemctl show -p MainPID --value holdfast)
  say "MEMORY $(systemctl show -p MemoryMax --value holdfast)."
  say "LIMIT $(journalctl --no-pager -u holdfast | grep -c 'memory is limited go_bytes=114085068')."
  say "OOM $(sed -n 's/^oom_kill //p' /sys/fs/cgroup/system.slice/holdfast.service/memory.events)."
  say "CREDENTIAL $(agent config show 2>/dev/null | wc -l) $(tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^CREDENTIALS_DIRECTORY=//p')."
  say "CLOCK $(agent check clock -o json | tr -d '\n' | grep -c '"fail"')."
  curl -sf -X PUT --data-binary on localhost:2379/v1/kv/goes >/dev/null && say "WRITES."
  say "DONE."
  poweroff -f
  ;;
readonly)
  mkdir -p /var/lib/holdfast
  mount /dev/vdc /var/lib/holdfast
  systemctl restart holdfast
  serving
  touch /written 2>/dev/null || say "ROOT read-only."
  curl -sf -X PUT --data-binary kept localhost:2379/v1/kv/readonly >/dev/null && say "WRITES."
  pid=$(main_pid)
  systemctl kill -s KILL holdfast
  other_pid "$pid"
  say "RESTARTED $(read_key readonly)."
  systemctl stop holdfast
  umount /var/lib/holdfast
  say "DONE."
  poweroff -f
  ;;
life)
  serving
  put kept kept >/dev/null

  # a proxy at the other end of a link of 50 ms that loses 5 %
  ip link add near type veth peer name far
  ip netns add far
  ip link set far netns far
  ip address add 10.99.0.1/24 dev near
  ip link set near up
  ip -n far address add 10.99.0.2/24 dev far
  ip -n far link set far up
  ip -n far link set lo up
  tc qdisc add dev near root netem delay 25ms loss 5%
  tc -n far qdisc add dev far root netem delay 25ms loss 5%
  (umask 077; agent token create --role proxy >/root/token)
  systemd-run --quiet --unit=proxy -p LoadCredential=token:/root/token ip netns exec far agent run --mode proxy --data-dir /root/proxy \
    --listen http://127.0.0.1:2379 --socket /run/proxy.sock --join 10.99.0.1:2380 --proxy-prefixes site/
  far="ip netns exec far"
  soon proxy $far curl -sf --max-time 5 -o /dev/null 'localhost:2379/readyz?require=uplink'
  through=0
  for i in $(seq 20); do
    $far curl -sf --max-time 20 -X PUT --data-binary far "localhost:2379/v1/kv/site/$i" >/dev/null && [[ $(read_key "site/$i") == far ]] && ((through++))
  done
  say "NETEM $through."
  say "CACHED $($far curl -sf --max-time 5 'localhost:2379/v1/kv/site/20?consistency=local')."
  systemctl stop proxy

  useradd --system device
  say "DEVICE $(setpriv --reuid=device --regid=device --clear-groups curl -s --max-time 20 -o /dev/null -w '%{http_code}' -X PUT --data-binary 1 localhost:2379/v1/kv/by/device)."

  pid=$(main_pid)
  systemctl reload holdfast && [[ $(main_pid) == "$pid" ]] && say "RELOADED same."
  systemctl kill -s KILL holdfast
  other_pid "$pid"
  say "KILLED $(read_key kept)."

  mkdir -p /run/systemd/system/holdfast.service.d
  printf '[Service]\nWatchdogSec=20\nTimeoutAbortSec=5\n' >/run/systemd/system/holdfast.service.d/soon.conf
  systemctl daemon-reload
  systemctl restart holdfast
  serving
  pid=$(main_pid)
  systemctl kill -s STOP holdfast
  other_pid "$pid"
  journalctl --no-pager -u holdfast | grep -q 'Watchdog timeout' && say "HUNG watchdog $(read_key kept)."

  next=/lab/newer.deb
  if [[ -e /lab/former.deb ]]; then # another program, with data of its own
    next=/lab/holdfast.deb
    dpkg -P holdfast >/dev/ttyS0 2>&1
    dpkg -i /lab/former.deb >/dev/ttyS0 2>&1
    systemctl enable --now holdfast
    serving
    put kept kept >/dev/null
  fi
  before=$(agent version | head -n 1)
  (
    i=0
    while [[ ! -e /run/enough ]]; do
      put "up/$i" "$i" >/dev/null && echo "up/$i"
      i=$((i + 1))
    done >/run/acked
  ) &
  load=$!
  pid=$(main_pid)
  dpkg -i "$next" >/dev/ttyS0 2>&1
  serving
  sleep 1
  touch /run/enough
  wait "$load"
  agent kv ls up/ --keys-only --limit 0 | sort >/run/there
  [[ $(main_pid) != "$pid" ]] && say "UPGRADED other lost $(sort /run/acked | comm -23 - /run/there | wc -l) of $(wc -l </run/acked)."
  say "VERSIONS $before; $(agent version | head -n 1); kept $(read_key kept)."

  dpkg -r holdfast >/dev/ttyS0 2>&1
  [[ ! -e /usr/bin/agent && -d /var/lib/holdfast/member ]] && say "REMOVED data."
  dpkg -i "$next" >/dev/ttyS0 2>&1
  systemctl start holdfast
  serving
  say "AGAIN $(read_key kept)."
  dpkg -P holdfast >/dev/ttyS0 2>&1
  [[ ! -e /var/lib/holdfast && ! -e /etc/holdfast ]] && say "PURGED nothing."
  say "DONE."
  poweroff -f
  ;;
esac
