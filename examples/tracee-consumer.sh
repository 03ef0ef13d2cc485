#!/bin/sh
# Reads a stream of Tracee's JSON and prints the prof events in it:
#   prof watch -s comm=cc1 -o tracee | examples/tracee-consumer.sh
# Columns: pid, name, on or off, why, rules that matched, number of events.
#
# Bits of FLAGS: 1 enable, 2 exec, 4 exit, 8 request, 32 inherit, 64 attach,
# 4096 partial (docs/output.md has all). jq has no bit operators: `bit` divides.
exec jq --unbuffered -r '
  def bit($n; $b): ($n / $b | floor) % 2 == 1;
  select(.eventName == "prof")
  | (.args | map({key: .name, value: .value}) | from_entries) as $a
  | [ .hostProcessId,
      .processName,
      (if bit($a.FLAGS; 1) then "on" else "off" end),
      ([ (2 | select(bit($a.FLAGS; .)) | "exec"),
         (4 | select(bit($a.FLAGS; .)) | "exit"),
         (8 | select(bit($a.FLAGS; .)) | "request"),
         (32 | select(bit($a.FLAGS; .)) | "inherit"),
         (64 | select(bit($a.FLAGS; .)) | "attach"),
         (4096 | select(bit($a.FLAGS; .)) | "partial") ] | join(",")),
      (.matchedPolicies // [] | join(",")),
      ($a.EVENTS | length) ]
  | @tsv'
