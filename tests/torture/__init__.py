"""The torture suite: kills, full disks, damaged files, hostile calls and requests, by the thousand, each counted.

`make torture` runs it. Each part tries case after case in a process of its own, and every case can be tried again by
its number. docs/reliability.md says what is promised, and has the table of a long run.
"""
