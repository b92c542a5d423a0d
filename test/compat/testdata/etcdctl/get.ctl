# get, with each option, at present and past revisions.
etcdctl put a/1 one
etcdctl put a/2 two
etcdctl put a/3 three
etcdctl put b/1 uno
etcdctl put a/2 zwei
etcdctl put a/1 eins
etcdctl put a/2 deux
etcdctl del a/3
etcdctl put a/3 trois
etcdctl* get a/1
etcdctl* get missing
etcdctl* get a/ --prefix
etcdctl* get a/1 a/3
etcdctl* get a/3 a/1
etcdctl* get a/1 a/1
etcdctl* get a/2 --from-key
etcdctl* get "" --prefix
etcdctl* get "" --from-key
etcdctl* get a/ --prefix --limit 2
etcdctl* get a/ --prefix --limit 3
etcdctl* get a/ --prefix --limit 1 --order DESCEND
etcdctl* get a/ --prefix --limit -1
etcdctl* get a/ --prefix --count-only
etcdctl get a/ --prefix --count-only --write-out=fields
etcdctl get a/ --prefix --count-only --limit 1 -w json
etcdctl* get a/ --prefix --keys-only
etcdctl get a/ --prefix --keys-only --count-only
etcdctl get a/ --prefix --print-value-only
etcdctl get a/1 --print-value-only -w json
etcdctl get a/ --prefix --sort-by KEY --order ASCEND
etcdctl get a/ --prefix --sort-by KEY --order DESCEND
etcdctl get a/ --prefix --sort-by VERSION
etcdctl get a/ --prefix --sort-by VERSION --order DESCEND
etcdctl get a/ --prefix --sort-by CREATE --order DESCEND
etcdctl get a/ --prefix --sort-by CREATE --order ASCEND
etcdctl get a/ --prefix --sort-by MODIFY --order ASCEND
etcdctl get a/ --prefix --sort-by MODIFY --order DESCEND --limit 2
etcdctl get a/ --prefix --sort-by VALUE --order ASCEND
etcdctl get a/ --prefix --sort-by VALUE --order DESCEND
etcdctl get a/ --prefix --sort-by NONSENSE
etcdctl get a/ --prefix --order NONSENSE
etcdctl* get a/ --prefix --rev 4
etcdctl* get a/ --prefix --rev 9
etcdctl get a/3 --rev 9
etcdctl get a/ --prefix --rev 1
etcdctl get a/ --prefix --rev 2 -w json
etcdctl get a/ --prefix --rev 10 -w json
etcdctl get a/ --prefix --rev 11
etcdctl get a/ --prefix --rev 99
etcdctl get a/ --prefix --rev -1 -w json
etcdctl get a/ --prefix --rev 6 --count-only -w fields
etcdctl get a/ --prefix --rev 6 --limit 1 -w fields
etcdctl* get a/ --prefix --min-mod-rev 8
etcdctl* get a/ --prefix --max-mod-rev 8
etcdctl* get a/ --prefix --min-create-rev 4
etcdctl* get a/ --prefix --max-create-rev 3
etcdctl get a/ --prefix --min-mod-rev 8 --limit 1 -w json
etcdctl get a/ --prefix --min-mod-rev 8 --count-only -w json
etcdctl get a/ --prefix --min-create-rev 3 --max-create-rev 3 -w json
etcdctl get a/ --prefix --min-mod-rev 9 --sort-by VALUE --order DESCEND --limit 1 -w json
etcdctl get a/1 --consistency s
etcdctl get a/1 --consistency l
etcdctl get a/1 --consistency x
etcdctl get a/ --prefix --consistency s --rev 5
etcdctl get a/ --prefix --from-key
etcdctl get a/1 a/3 --prefix
etcdctl get a/1 a/3 --from-key
etcdctl get
etcdctl get ""
etcdctl get a b c
etcdctl* get a/ --prefix --stream
etcdctl get a/ --prefix --stream --limit 2 -w json
etcdctl get a/ --prefix --stream --rev 4 -w json
etcdctl get missing --stream -w json
etcdctl get a/ --prefix --stream --rev 99
etcdctl get a/ --prefix --stream --count-only -w json
etcdctl get a/ --prefix --stream --keys-only -w json
etcdctl get a/ --prefix --stream --sort-by VALUE -w json
