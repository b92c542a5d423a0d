#!/bin/bash
# Runs in the machine, from its second disk, with the serial console as standard output. The step is on the kernel's command line.
step=$(sed -n 's/.*hf\.step=\([a-z]*\).*/\1/p' /proc/cmdline)
say() { echo "$@" >/dev/ttyS0; }
serving() {
  for _ in $(seq 600); do
    curl -sf --max-time 5 localhost:2379/readyz >/dev/null && return
    sleep 0.2
  done
  say "NOT READY"
  journalctl --no-pager -u holdfast -n 40 >/dev/ttyS0
}

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
  agent kv ls load/ --limit 0 | sed -n 's/^load\/\([0-9]*\).*/\1/p' | while read -r key; do say "HAVE $key."; done
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
esac
