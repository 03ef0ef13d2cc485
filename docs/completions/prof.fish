# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_prof_global_optspecs
    string join \n h/help V/version
end

function __fish_prof_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_prof_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_prof_using_subcommand
    set -l cmd (__fish_prof_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c prof -n "__fish_prof_needs_command" -s h -l help -d 'Print help'
complete -c prof -n "__fish_prof_needs_command" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_needs_command" -f -a "run" -d 'Run a command and show what it, and each process it starts, cost'
complete -c prof -n "__fish_prof_needs_command" -f -a "watch" -d 'Watch every process that a rule names, host-wide, however it was started'
complete -c prof -n "__fish_prof_needs_command" -f -a "attach" -d 'Profile processes that already run, from now on'
complete -c prof -n "__fish_prof_needs_command" -f -a "record" -d 'Sample stacks and keep them in a file, to be shown later or elsewhere'
complete -c prof -n "__fish_prof_needs_command" -f -a "report" -d 'Show the stacks that `prof record` has kept'
complete -c prof -n "__fish_prof_needs_command" -f -a "audit" -d 'Tell whenever anyone switches profiling on or off: who, whom, what, how long'
complete -c prof -n "__fish_prof_needs_command" -f -a "events" -d 'List the events that can be counted'
complete -c prof -n "__fish_prof_needs_command" -f -a "doctor" -d 'Show what of this machine prof can use, and what would make the rest work'
complete -c prof -n "__fish_prof_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c prof -n "__fish_prof_using_subcommand run" -s e -l events -d 'Events, in perf\'s syntax: `cycles,instructions:u`, `{a,b}`, `cpu/event=0x3c/`, `sched:sched_wakeup`; figures (`peak-rss`), metrics (`ipc`), `default`; a list that begins with `+` or `-` changes the default: `+cycles,ipc` adds both, `-name` leaves out; see `prof events`' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l filter -d 'Count only hits of the tracepoints in the -e before it for which this holds, as in `prio < 100`' -r
complete -c prof -n "__fish_prof_using_subcommand run" -s o -l output -d 'Output, FORMAT[:FILE]: table, summary, json or tracee; of stacks: text, folded, flamegraph (.svg or .html), pprof, firefox, speedscope, perfdata, or raw for `prof report`; may be repeated' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l hooks -d 'How to attach to the kernel' -r -f -a "auto\t'The cheapest that this kernel has'
tp_btf\t'Tracepoints with typed arguments'
raw_tp\t'Tracepoints with raw arguments'
kprobe\t'Probes on the kernel\'s functions'"
complete -c prof -n "__fish_prof_using_subcommand run" -l btf -d 'BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux' -r -F
complete -c prof -n "__fish_prof_using_subcommand run" -l duration -d 'Stop after this time (10s, 2m, 500ms)' -r
complete -c prof -n "__fish_prof_using_subcommand run" -s I -l interval -d 'Show the figures so far every MS milliseconds; at least 10' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l control -d 'Take commands while it runs, fifo:CTL[,ACK] or fd:N[,M], as perf does: a line each of enable, disable, ping, snapshot, evlist, stop, answered with `ack`' -r
complete -c prof -n "__fish_prof_using_subcommand run" -s D -l delay -d 'Begin switched off, and switch on after MS milliseconds; -1: when --control says' -r
complete -c prof -n "__fish_prof_using_subcommand run" -s F -l freq -d 'Samples a second of each CPU that is busy with what is profiled [default: 997]' -r
complete -c prof -n "__fish_prof_using_subcommand run" -s c -l count -d 'A sample for each N events of --by, or nanoseconds of the timer (10000 or more), instead of --freq' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l by -d 'Events that samples go by, in perf\'s syntax, instead of a timer: `cycles`, `page-faults`, `cache-misses:u`, `cpu-clock,page-faults`, or tracepoints, each hit: `sched:sched_wakeup`; with --count or --freq, or `page-faults/period=10/` for one of them. Repeatable' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l off-cpu -d 'Time off the CPU, too: blocked or waiting for a CPU, with the stack that left it, for how long, and who ended it; `only`: without samples of the time on it' -r -f -a "too\t'Beside samples'
only\t'Nothing else'"
complete -c prof -n "__fish_prof_using_subcommand run" -l off-cpu-min -d 'With --off-cpu, leave out shorter times (10us, 1ms)' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l max-depth -d 'Frames of a stack, of the program and of the kernel each' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l tree-depth -d 'Levels of the call tree in `text`; 0 for all [default: 24 on a terminal, else all]' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l percent-limit -d 'Leave out what has less of all in the call tree in `text`, in percent' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l buffer -d 'Size of the buffer between kernel and prof (64K, 8M)' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l max-processes -d 'Most processes profiled at once' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l color -d 'Colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c prof -n "__fish_prof_using_subcommand run" -l top -d 'Rows of a summary, and of the heaviest functions in `text`; 0 for all [default: 30]' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l sort -d 'Sort the processes of a summary by an event or a metric instead of showing the tree' -r
complete -c prof -n "__fish_prof_using_subcommand run" -s s -l scope -d 'Only processes that this names: comm=, exe=, uid=, gid=, pid=, tree=, cgroup=, mntns=, pidns=, container, not-container, follow; `!=`; a `*` at either end of a name; commas mean or, several options mean and' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l rule -d 'One more rule, `[NAME:] EXPR…`; each event tells which rules matched' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l rules -d 'Rules from a file, one a line, `#` for comments' -r -F
complete -c prof -n "__fish_prof_using_subcommand run" -s r -l repeat -d 'Run the command N times and show how the totals of the runs spread' -r
complete -c prof -n "__fish_prof_using_subcommand run" -l keep-going -d 'Leave out events that this machine does not have instead of stopping'
complete -c prof -n "__fish_prof_using_subcommand run" -s g -l stacks -d 'Sample stacks: where the time went, in the functions of the programs and of the kernel. Implied by an output of stacks (text, folded, flamegraph, pprof, firefox, speedscope, perfdata), and by the options that follow'
complete -c prof -n "__fish_prof_using_subcommand run" -l user -d 'Only the programs\' part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand run" -l kernel -d 'Only the kernel\'s part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand run" -l debuginfod -d 'Ask the servers in $DEBUGINFOD_URLS for debug files that are not here'
complete -c prof -n "__fish_prof_using_subcommand run" -l per-thread -d 'Report each thread (in table and json)'
complete -c prof -n "__fish_prof_using_subcommand run" -l no-args -d 'Do not report arguments: they can hold secrets'
complete -c prof -n "__fish_prof_using_subcommand run" -l no-regions -d 'Do not attach to the probes by which programs name regions of their work'
complete -c prof -n "__fish_prof_using_subcommand run" -l no-cache -d 'Do not keep the programs prepared for this kernel, and names of functions (in /var/cache/prof, or $PROF_CACHE_DIR), for the next time'
complete -c prof -n "__fish_prof_using_subcommand run" -l by-exe -d 'Group the processes of a summary by program'
complete -c prof -n "__fish_prof_using_subcommand run" -l ignore-failure -d 'With --repeat, go on after a run that failed'
complete -c prof -n "__fish_prof_using_subcommand run" -l no-follow -d 'Do not profile what the command starts'
complete -c prof -n "__fish_prof_using_subcommand run" -l follow -d 'Profile what the command starts (the default)'
complete -c prof -n "__fish_prof_using_subcommand run" -l unprivileged -d 'Count as an ordinary user would: the command as a whole, no processes'
complete -c prof -n "__fish_prof_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand run" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand watch" -s e -l events -d 'Events, in perf\'s syntax: `cycles,instructions:u`, `{a,b}`, `cpu/event=0x3c/`, `sched:sched_wakeup`; figures (`peak-rss`), metrics (`ipc`), `default`; a list that begins with `+` or `-` changes the default: `+cycles,ipc` adds both, `-name` leaves out; see `prof events`' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l filter -d 'Count only hits of the tracepoints in the -e before it for which this holds, as in `prio < 100`' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -s o -l output -d 'Output, FORMAT[:FILE]: table, summary, json or tracee; of stacks: text, folded, flamegraph (.svg or .html), pprof, firefox, speedscope, perfdata, or raw for `prof report`; may be repeated' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l hooks -d 'How to attach to the kernel' -r -f -a "auto\t'The cheapest that this kernel has'
tp_btf\t'Tracepoints with typed arguments'
raw_tp\t'Tracepoints with raw arguments'
kprobe\t'Probes on the kernel\'s functions'"
complete -c prof -n "__fish_prof_using_subcommand watch" -l btf -d 'BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux' -r -F
complete -c prof -n "__fish_prof_using_subcommand watch" -l duration -d 'Stop after this time (10s, 2m, 500ms)' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -s I -l interval -d 'Show the figures so far every MS milliseconds; at least 10' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l control -d 'Take commands while it runs, fifo:CTL[,ACK] or fd:N[,M], as perf does: a line each of enable, disable, ping, snapshot, evlist, stop, answered with `ack`' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -s D -l delay -d 'Begin switched off, and switch on after MS milliseconds; -1: when --control says' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -s F -l freq -d 'Samples a second of each CPU that is busy with what is profiled [default: 997]' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -s c -l count -d 'A sample for each N events of --by, or nanoseconds of the timer (10000 or more), instead of --freq' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l by -d 'Events that samples go by, in perf\'s syntax, instead of a timer: `cycles`, `page-faults`, `cache-misses:u`, `cpu-clock,page-faults`, or tracepoints, each hit: `sched:sched_wakeup`; with --count or --freq, or `page-faults/period=10/` for one of them. Repeatable' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l off-cpu -d 'Time off the CPU, too: blocked or waiting for a CPU, with the stack that left it, for how long, and who ended it; `only`: without samples of the time on it' -r -f -a "too\t'Beside samples'
only\t'Nothing else'"
complete -c prof -n "__fish_prof_using_subcommand watch" -l off-cpu-min -d 'With --off-cpu, leave out shorter times (10us, 1ms)' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l max-depth -d 'Frames of a stack, of the program and of the kernel each' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l tree-depth -d 'Levels of the call tree in `text`; 0 for all [default: 24 on a terminal, else all]' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l percent-limit -d 'Leave out what has less of all in the call tree in `text`, in percent' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l buffer -d 'Size of the buffer between kernel and prof (64K, 8M)' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l max-processes -d 'Most processes profiled at once' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l color -d 'Colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c prof -n "__fish_prof_using_subcommand watch" -l top -d 'Rows of a summary, and of the heaviest functions in `text`; 0 for all [default: 30]' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l sort -d 'Sort the processes of a summary by an event or a metric instead of showing the tree' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -s s -l scope -d 'Only processes that this names: comm=, exe=, uid=, gid=, pid=, tree=, cgroup=, mntns=, pidns=, container, not-container, follow; `!=`; a `*` at either end of a name; commas mean or, several options mean and' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l rule -d 'One more rule, `[NAME:] EXPR…`; each event tells which rules matched' -r
complete -c prof -n "__fish_prof_using_subcommand watch" -l rules -d 'Rules from a file, one a line, `#` for comments' -r -F
complete -c prof -n "__fish_prof_using_subcommand watch" -l keep-going -d 'Leave out events that this machine does not have instead of stopping'
complete -c prof -n "__fish_prof_using_subcommand watch" -s g -l stacks -d 'Sample stacks: where the time went, in the functions of the programs and of the kernel. Implied by an output of stacks (text, folded, flamegraph, pprof, firefox, speedscope, perfdata), and by the options that follow'
complete -c prof -n "__fish_prof_using_subcommand watch" -l user -d 'Only the programs\' part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand watch" -l kernel -d 'Only the kernel\'s part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand watch" -l debuginfod -d 'Ask the servers in $DEBUGINFOD_URLS for debug files that are not here'
complete -c prof -n "__fish_prof_using_subcommand watch" -l per-thread -d 'Report each thread (in table and json)'
complete -c prof -n "__fish_prof_using_subcommand watch" -l no-args -d 'Do not report arguments: they can hold secrets'
complete -c prof -n "__fish_prof_using_subcommand watch" -l no-regions -d 'Do not attach to the probes by which programs name regions of their work'
complete -c prof -n "__fish_prof_using_subcommand watch" -l no-cache -d 'Do not keep the programs prepared for this kernel, and names of functions (in /var/cache/prof, or $PROF_CACHE_DIR), for the next time'
complete -c prof -n "__fish_prof_using_subcommand watch" -l by-exe -d 'Group the processes of a summary by program'
complete -c prof -n "__fish_prof_using_subcommand watch" -l existing -d 'Attach to the processes that run already and match, too'
complete -c prof -n "__fish_prof_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand watch" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand attach" -s e -l events -d 'Events, in perf\'s syntax: `cycles,instructions:u`, `{a,b}`, `cpu/event=0x3c/`, `sched:sched_wakeup`; figures (`peak-rss`), metrics (`ipc`), `default`; a list that begins with `+` or `-` changes the default: `+cycles,ipc` adds both, `-name` leaves out; see `prof events`' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l filter -d 'Count only hits of the tracepoints in the -e before it for which this holds, as in `prio < 100`' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -s o -l output -d 'Output, FORMAT[:FILE]: table, summary, json or tracee; of stacks: text, folded, flamegraph (.svg or .html), pprof, firefox, speedscope, perfdata, or raw for `prof report`; may be repeated' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l hooks -d 'How to attach to the kernel' -r -f -a "auto\t'The cheapest that this kernel has'
tp_btf\t'Tracepoints with typed arguments'
raw_tp\t'Tracepoints with raw arguments'
kprobe\t'Probes on the kernel\'s functions'"
complete -c prof -n "__fish_prof_using_subcommand attach" -l btf -d 'BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux' -r -F
complete -c prof -n "__fish_prof_using_subcommand attach" -l duration -d 'Stop after this time (10s, 2m, 500ms)' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -s I -l interval -d 'Show the figures so far every MS milliseconds; at least 10' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l control -d 'Take commands while it runs, fifo:CTL[,ACK] or fd:N[,M], as perf does: a line each of enable, disable, ping, snapshot, evlist, stop, answered with `ack`' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -s D -l delay -d 'Begin switched off, and switch on after MS milliseconds; -1: when --control says' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -s F -l freq -d 'Samples a second of each CPU that is busy with what is profiled [default: 997]' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -s c -l count -d 'A sample for each N events of --by, or nanoseconds of the timer (10000 or more), instead of --freq' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l by -d 'Events that samples go by, in perf\'s syntax, instead of a timer: `cycles`, `page-faults`, `cache-misses:u`, `cpu-clock,page-faults`, or tracepoints, each hit: `sched:sched_wakeup`; with --count or --freq, or `page-faults/period=10/` for one of them. Repeatable' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l off-cpu -d 'Time off the CPU, too: blocked or waiting for a CPU, with the stack that left it, for how long, and who ended it; `only`: without samples of the time on it' -r -f -a "too\t'Beside samples'
only\t'Nothing else'"
complete -c prof -n "__fish_prof_using_subcommand attach" -l off-cpu-min -d 'With --off-cpu, leave out shorter times (10us, 1ms)' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l max-depth -d 'Frames of a stack, of the program and of the kernel each' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l tree-depth -d 'Levels of the call tree in `text`; 0 for all [default: 24 on a terminal, else all]' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l percent-limit -d 'Leave out what has less of all in the call tree in `text`, in percent' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l buffer -d 'Size of the buffer between kernel and prof (64K, 8M)' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l max-processes -d 'Most processes profiled at once' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l color -d 'Colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c prof -n "__fish_prof_using_subcommand attach" -l top -d 'Rows of a summary, and of the heaviest functions in `text`; 0 for all [default: 30]' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l sort -d 'Sort the processes of a summary by an event or a metric instead of showing the tree' -r
complete -c prof -n "__fish_prof_using_subcommand attach" -l keep-going -d 'Leave out events that this machine does not have instead of stopping'
complete -c prof -n "__fish_prof_using_subcommand attach" -s g -l stacks -d 'Sample stacks: where the time went, in the functions of the programs and of the kernel. Implied by an output of stacks (text, folded, flamegraph, pprof, firefox, speedscope, perfdata), and by the options that follow'
complete -c prof -n "__fish_prof_using_subcommand attach" -l user -d 'Only the programs\' part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand attach" -l kernel -d 'Only the kernel\'s part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand attach" -l debuginfod -d 'Ask the servers in $DEBUGINFOD_URLS for debug files that are not here'
complete -c prof -n "__fish_prof_using_subcommand attach" -l per-thread -d 'Report each thread (in table and json)'
complete -c prof -n "__fish_prof_using_subcommand attach" -l no-args -d 'Do not report arguments: they can hold secrets'
complete -c prof -n "__fish_prof_using_subcommand attach" -l no-regions -d 'Do not attach to the probes by which programs name regions of their work'
complete -c prof -n "__fish_prof_using_subcommand attach" -l no-cache -d 'Do not keep the programs prepared for this kernel, and names of functions (in /var/cache/prof, or $PROF_CACHE_DIR), for the next time'
complete -c prof -n "__fish_prof_using_subcommand attach" -l by-exe -d 'Group the processes of a summary by program'
complete -c prof -n "__fish_prof_using_subcommand attach" -l follow -d 'Profile the children that they start from now on, too'
complete -c prof -n "__fish_prof_using_subcommand attach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand attach" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand record" -s e -l events -d 'Events, in perf\'s syntax: `cycles,instructions:u`, `{a,b}`, `cpu/event=0x3c/`, `sched:sched_wakeup`; figures (`peak-rss`), metrics (`ipc`), `default`; a list that begins with `+` or `-` changes the default: `+cycles,ipc` adds both, `-name` leaves out; see `prof events`' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l filter -d 'Count only hits of the tracepoints in the -e before it for which this holds, as in `prio < 100`' -r
complete -c prof -n "__fish_prof_using_subcommand record" -s o -l output -d 'Output, FORMAT[:FILE]: table, summary, json or tracee; of stacks: text, folded, flamegraph (.svg or .html), pprof, firefox, speedscope, perfdata, or raw for `prof report`; may be repeated' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l hooks -d 'How to attach to the kernel' -r -f -a "auto\t'The cheapest that this kernel has'
tp_btf\t'Tracepoints with typed arguments'
raw_tp\t'Tracepoints with raw arguments'
kprobe\t'Probes on the kernel\'s functions'"
complete -c prof -n "__fish_prof_using_subcommand record" -l btf -d 'BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux' -r -F
complete -c prof -n "__fish_prof_using_subcommand record" -l duration -d 'Stop after this time (10s, 2m, 500ms)' -r
complete -c prof -n "__fish_prof_using_subcommand record" -s I -l interval -d 'Show the figures so far every MS milliseconds; at least 10' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l control -d 'Take commands while it runs, fifo:CTL[,ACK] or fd:N[,M], as perf does: a line each of enable, disable, ping, snapshot, evlist, stop, answered with `ack`' -r
complete -c prof -n "__fish_prof_using_subcommand record" -s D -l delay -d 'Begin switched off, and switch on after MS milliseconds; -1: when --control says' -r
complete -c prof -n "__fish_prof_using_subcommand record" -s F -l freq -d 'Samples a second of each CPU that is busy with what is profiled [default: 997]' -r
complete -c prof -n "__fish_prof_using_subcommand record" -s c -l count -d 'A sample for each N events of --by, or nanoseconds of the timer (10000 or more), instead of --freq' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l by -d 'Events that samples go by, in perf\'s syntax, instead of a timer: `cycles`, `page-faults`, `cache-misses:u`, `cpu-clock,page-faults`, or tracepoints, each hit: `sched:sched_wakeup`; with --count or --freq, or `page-faults/period=10/` for one of them. Repeatable' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l off-cpu -d 'Time off the CPU, too: blocked or waiting for a CPU, with the stack that left it, for how long, and who ended it; `only`: without samples of the time on it' -r -f -a "too\t'Beside samples'
only\t'Nothing else'"
complete -c prof -n "__fish_prof_using_subcommand record" -l off-cpu-min -d 'With --off-cpu, leave out shorter times (10us, 1ms)' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l max-depth -d 'Frames of a stack, of the program and of the kernel each' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l tree-depth -d 'Levels of the call tree in `text`; 0 for all [default: 24 on a terminal, else all]' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l percent-limit -d 'Leave out what has less of all in the call tree in `text`, in percent' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l buffer -d 'Size of the buffer between kernel and prof (64K, 8M)' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l max-processes -d 'Most processes profiled at once' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l color -d 'Colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c prof -n "__fish_prof_using_subcommand record" -l top -d 'Rows of a summary, and of the heaviest functions in `text`; 0 for all [default: 30]' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l sort -d 'Sort the processes of a summary by an event or a metric instead of showing the tree' -r
complete -c prof -n "__fish_prof_using_subcommand record" -s s -l scope -d 'Only processes that this names: comm=, exe=, uid=, gid=, pid=, tree=, cgroup=, mntns=, pidns=, container, not-container, follow; `!=`; a `*` at either end of a name; commas mean or, several options mean and' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l rule -d 'One more rule, `[NAME:] EXPR…`; each event tells which rules matched' -r
complete -c prof -n "__fish_prof_using_subcommand record" -l rules -d 'Rules from a file, one a line, `#` for comments' -r -F
complete -c prof -n "__fish_prof_using_subcommand record" -l keep-going -d 'Leave out events that this machine does not have instead of stopping'
complete -c prof -n "__fish_prof_using_subcommand record" -s g -l stacks -d 'Sample stacks: where the time went, in the functions of the programs and of the kernel. Implied by an output of stacks (text, folded, flamegraph, pprof, firefox, speedscope, perfdata), and by the options that follow'
complete -c prof -n "__fish_prof_using_subcommand record" -l user -d 'Only the programs\' part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand record" -l kernel -d 'Only the kernel\'s part of the stacks'
complete -c prof -n "__fish_prof_using_subcommand record" -l debuginfod -d 'Ask the servers in $DEBUGINFOD_URLS for debug files that are not here'
complete -c prof -n "__fish_prof_using_subcommand record" -l per-thread -d 'Report each thread (in table and json)'
complete -c prof -n "__fish_prof_using_subcommand record" -l no-args -d 'Do not report arguments: they can hold secrets'
complete -c prof -n "__fish_prof_using_subcommand record" -l no-regions -d 'Do not attach to the probes by which programs name regions of their work'
complete -c prof -n "__fish_prof_using_subcommand record" -l no-cache -d 'Do not keep the programs prepared for this kernel, and names of functions (in /var/cache/prof, or $PROF_CACHE_DIR), for the next time'
complete -c prof -n "__fish_prof_using_subcommand record" -l by-exe -d 'Group the processes of a summary by program'
complete -c prof -n "__fish_prof_using_subcommand record" -l no-follow -d 'Do not sample what the command starts'
complete -c prof -n "__fish_prof_using_subcommand record" -l existing -d 'Without a command: sample the processes that run already and match, too'
complete -c prof -n "__fish_prof_using_subcommand record" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand record" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand report" -s o -l output -d 'Output, FORMAT[:FILE]: text, folded, flamegraph (.svg or .html), pprof, firefox, speedscope or perfdata; may be repeated [default: text]' -r
complete -c prof -n "__fish_prof_using_subcommand report" -l symfs -d 'Where the programs and libraries are, as on the machine that recorded or by build id, and their debug files' -r -F
complete -c prof -n "__fish_prof_using_subcommand report" -l top -d 'Rows of the heaviest functions in `text`; 0 for all' -r
complete -c prof -n "__fish_prof_using_subcommand report" -l tree-depth -d 'Levels of the call tree in `text`; 0 for all [default: 24 on a terminal, else all]' -r
complete -c prof -n "__fish_prof_using_subcommand report" -l percent-limit -d 'Leave out what has less of all in the call tree in `text`, in percent' -r
complete -c prof -n "__fish_prof_using_subcommand report" -l color -d 'Colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c prof -n "__fish_prof_using_subcommand report" -l debuginfod -d 'Ask the servers in $DEBUGINFOD_URLS for debug files that are not here'
complete -c prof -n "__fish_prof_using_subcommand report" -l no-cache -d 'Neither use nor keep names that were found (in /var/cache/prof, or $PROF_CACHE_DIR)'
complete -c prof -n "__fish_prof_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand report" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand audit" -s o -l output -d 'Output, FORMAT[:FILE]: table, summary, json or tracee; may be repeated' -r
complete -c prof -n "__fish_prof_using_subcommand audit" -l by -d 'Only what those do who profile and whom this rule names, as in `prof watch -s`: comm=, exe=, uid=, gid=, pid=, container … Repeatable: any of them' -r
complete -c prof -n "__fish_prof_using_subcommand audit" -l of -d 'Only what is done to those who are profiled and whom this rule names; what is not of a single process is left out' -r
complete -c prof -n "__fish_prof_using_subcommand audit" -l hooks -d 'How to attach to the kernel' -r -f -a "auto\t'The cheapest that this kernel has'
fentry\t'Trampolines at the kernel\'s functions for perf, links and ptrace'
kprobe\t'Probes on the same functions'
tracepoint\t'Tracepoints of system calls: all system calls of everybody take longer'"
complete -c prof -n "__fish_prof_using_subcommand audit" -l duration -d 'Stop after this time (10s, 2m, 500ms)' -r
complete -c prof -n "__fish_prof_using_subcommand audit" -l btf -d 'BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux' -r -F
complete -c prof -n "__fish_prof_using_subcommand audit" -l buffer -d 'Size of the buffer between kernel and prof (64K, 8M) [default: 8M, or 1M a CPU]' -r
complete -c prof -n "__fish_prof_using_subcommand audit" -l color -d 'Colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c prof -n "__fish_prof_using_subcommand audit" -l list -d 'List what is being profiled now, whoever began it and when, and end (table, json)'
complete -c prof -n "__fish_prof_using_subcommand audit" -l no-cache -d 'Do not keep the programs prepared for this kernel for a faster next start'
complete -c prof -n "__fish_prof_using_subcommand audit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand audit" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand events" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'"
complete -c prof -n "__fish_prof_using_subcommand events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand events" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand doctor" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'"
complete -c prof -n "__fish_prof_using_subcommand doctor" -l btf -d 'BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux' -r -F
complete -c prof -n "__fish_prof_using_subcommand doctor" -l color -d 'Colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c prof -n "__fish_prof_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c prof -n "__fish_prof_using_subcommand doctor" -s V -l version -d 'Print version'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "run" -d 'Run a command and show what it, and each process it starts, cost'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "watch" -d 'Watch every process that a rule names, host-wide, however it was started'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "attach" -d 'Profile processes that already run, from now on'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "record" -d 'Sample stacks and keep them in a file, to be shown later or elsewhere'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "report" -d 'Show the stacks that `prof record` has kept'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "audit" -d 'Tell whenever anyone switches profiling on or off: who, whom, what, how long'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "events" -d 'List the events that can be counted'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "doctor" -d 'Show what of this machine prof can use, and what would make the rest work'
complete -c prof -n "__fish_prof_using_subcommand help; and not __fish_seen_subcommand_from run watch attach record report audit events doctor help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
