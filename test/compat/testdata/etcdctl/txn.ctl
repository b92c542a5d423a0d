# txn, from standard input: compares, one empty line, requests, one empty line, requests otherwise, one empty line.
etcdctl* txn
< mod("k") = "0"
< 
< put k created
< 
< put k changed
< get k
< 
etcdctl get k
etcdctl* txn
< value("k") = "changed"
< version("k") > "0"
< create("k") > "1"
< 
< get k
< put other 1
< get other
< 
< get nothing
< 
etcdctl* txn
< value("k") != "changed"
< 
< put k a
< 
< del k --prev-kv
< put k again
< get k --prefix
< 
etcdctl txn
< lease("k") = "0"
< 
< get k
< 
< 
etcdctl txn
< value("k") < "b"
< 
< get k
< 
< get other
< 
etcdctl txn
< value("missing") = ""
< 
< get k
< 
< get other
< 
etcdctl txn
< value("missing") != "x"
< 
< get k
< 
< get other
< 
etcdctl txn
< version("missing") = "0"
< 
< get k
< 
< get other
< 
etcdctl txn
< mod("missing") < "1"
< create("missing") = "0"
< lease("missing") = "0"
< 
< get k
< 
< get other
< 
etcdctl txn -i
< 
< put x 1
< put y 2
< 
< 
etcdctl -w json txn
< 
< 
< 
# the same key twice
etcdctl txn
< 
< put twice 1
< put twice 2
< 
< 
etcdctl txn
< 
< put twice 1
< del twice
< 
< 
etcdctl txn
< 
< del twice --prefix
< put twice1 1
< 
< 
etcdctl txn
< 
< del a --prefix
< del a --prefix
< put b 1
< 
< 
# a key twice, once in each branch, is no fault
etcdctl txn
< version("once") = "0"
< 
< put once 1
< 
< put once 2
< 
etcdctl -w json get "" --prefix
# what is refused
etcdctl txn
< mod("k") = "x"
< 
etcdctl txn
< nonsense("k") = "1"
< 
etcdctl txn
< mod(k
< 
etcdctl txn
< 
< nonsense k
< 
< 
etcdctl txn
< 
< put "" v
< 
< 
etcdctl txn
< 
< get k --rev 9999
< 
< 
etcdctl txn
< 
< put k before-a-bad-read
< get k --rev 9999
< 
< 
etcdctl -w json get k
etcdctl txn
< 
< put k v --lease 77
< 
< 
etcdctl txn
< 
< put ignored --ignore-value
< 
< 
etcdctl txn unexpected
etcdctl -w json get "" --prefix
# the limit on requests in one
etcdctl -w json txn
< 
< put many/000 v
< put many/001 v
< put many/002 v
< put many/003 v
< put many/004 v
< put many/005 v
< put many/006 v
< put many/007 v
< put many/008 v
< put many/009 v
< put many/010 v
< put many/011 v
< put many/012 v
< put many/013 v
< put many/014 v
< put many/015 v
< put many/016 v
< put many/017 v
< put many/018 v
< put many/019 v
< put many/020 v
< put many/021 v
< put many/022 v
< put many/023 v
< put many/024 v
< put many/025 v
< put many/026 v
< put many/027 v
< put many/028 v
< put many/029 v
< put many/030 v
< put many/031 v
< put many/032 v
< put many/033 v
< put many/034 v
< put many/035 v
< put many/036 v
< put many/037 v
< put many/038 v
< put many/039 v
< put many/040 v
< put many/041 v
< put many/042 v
< put many/043 v
< put many/044 v
< put many/045 v
< put many/046 v
< put many/047 v
< put many/048 v
< put many/049 v
< put many/050 v
< put many/051 v
< put many/052 v
< put many/053 v
< put many/054 v
< put many/055 v
< put many/056 v
< put many/057 v
< put many/058 v
< put many/059 v
< put many/060 v
< put many/061 v
< put many/062 v
< put many/063 v
< put many/064 v
< put many/065 v
< put many/066 v
< put many/067 v
< put many/068 v
< put many/069 v
< put many/070 v
< put many/071 v
< put many/072 v
< put many/073 v
< put many/074 v
< put many/075 v
< put many/076 v
< put many/077 v
< put many/078 v
< put many/079 v
< put many/080 v
< put many/081 v
< put many/082 v
< put many/083 v
< put many/084 v
< put many/085 v
< put many/086 v
< put many/087 v
< put many/088 v
< put many/089 v
< put many/090 v
< put many/091 v
< put many/092 v
< put many/093 v
< put many/094 v
< put many/095 v
< put many/096 v
< put many/097 v
< put many/098 v
< put many/099 v
< put many/100 v
< put many/101 v
< put many/102 v
< put many/103 v
< put many/104 v
< put many/105 v
< put many/106 v
< put many/107 v
< put many/108 v
< put many/109 v
< put many/110 v
< put many/111 v
< put many/112 v
< put many/113 v
< put many/114 v
< put many/115 v
< put many/116 v
< put many/117 v
< put many/118 v
< put many/119 v
< put many/120 v
< put many/121 v
< put many/122 v
< put many/123 v
< put many/124 v
< put many/125 v
< put many/126 v
< put many/127 v
< 
< 
etcdctl txn
< 
< put many/000 v
< put many/001 v
< put many/002 v
< put many/003 v
< put many/004 v
< put many/005 v
< put many/006 v
< put many/007 v
< put many/008 v
< put many/009 v
< put many/010 v
< put many/011 v
< put many/012 v
< put many/013 v
< put many/014 v
< put many/015 v
< put many/016 v
< put many/017 v
< put many/018 v
< put many/019 v
< put many/020 v
< put many/021 v
< put many/022 v
< put many/023 v
< put many/024 v
< put many/025 v
< put many/026 v
< put many/027 v
< put many/028 v
< put many/029 v
< put many/030 v
< put many/031 v
< put many/032 v
< put many/033 v
< put many/034 v
< put many/035 v
< put many/036 v
< put many/037 v
< put many/038 v
< put many/039 v
< put many/040 v
< put many/041 v
< put many/042 v
< put many/043 v
< put many/044 v
< put many/045 v
< put many/046 v
< put many/047 v
< put many/048 v
< put many/049 v
< put many/050 v
< put many/051 v
< put many/052 v
< put many/053 v
< put many/054 v
< put many/055 v
< put many/056 v
< put many/057 v
< put many/058 v
< put many/059 v
< put many/060 v
< put many/061 v
< put many/062 v
< put many/063 v
< put many/064 v
< put many/065 v
< put many/066 v
< put many/067 v
< put many/068 v
< put many/069 v
< put many/070 v
< put many/071 v
< put many/072 v
< put many/073 v
< put many/074 v
< put many/075 v
< put many/076 v
< put many/077 v
< put many/078 v
< put many/079 v
< put many/080 v
< put many/081 v
< put many/082 v
< put many/083 v
< put many/084 v
< put many/085 v
< put many/086 v
< put many/087 v
< put many/088 v
< put many/089 v
< put many/090 v
< put many/091 v
< put many/092 v
< put many/093 v
< put many/094 v
< put many/095 v
< put many/096 v
< put many/097 v
< put many/098 v
< put many/099 v
< put many/100 v
< put many/101 v
< put many/102 v
< put many/103 v
< put many/104 v
< put many/105 v
< put many/106 v
< put many/107 v
< put many/108 v
< put many/109 v
< put many/110 v
< put many/111 v
< put many/112 v
< put many/113 v
< put many/114 v
< put many/115 v
< put many/116 v
< put many/117 v
< put many/118 v
< put many/119 v
< put many/120 v
< put many/121 v
< put many/122 v
< put many/123 v
< put many/124 v
< put many/125 v
< put many/126 v
< put many/127 v
< put many/128 v
< 
< 
etcdctl -w json get many/ --prefix --count-only
etcdctl txn
< version("c0") = "0"
< version("c1") = "0"
< version("c2") = "0"
< version("c3") = "0"
< version("c4") = "0"
< version("c5") = "0"
< version("c6") = "0"
< version("c7") = "0"
< version("c8") = "0"
< version("c9") = "0"
< version("c10") = "0"
< version("c11") = "0"
< version("c12") = "0"
< version("c13") = "0"
< version("c14") = "0"
< version("c15") = "0"
< version("c16") = "0"
< version("c17") = "0"
< version("c18") = "0"
< version("c19") = "0"
< version("c20") = "0"
< version("c21") = "0"
< version("c22") = "0"
< version("c23") = "0"
< version("c24") = "0"
< version("c25") = "0"
< version("c26") = "0"
< version("c27") = "0"
< version("c28") = "0"
< version("c29") = "0"
< version("c30") = "0"
< version("c31") = "0"
< version("c32") = "0"
< version("c33") = "0"
< version("c34") = "0"
< version("c35") = "0"
< version("c36") = "0"
< version("c37") = "0"
< version("c38") = "0"
< version("c39") = "0"
< version("c40") = "0"
< version("c41") = "0"
< version("c42") = "0"
< version("c43") = "0"
< version("c44") = "0"
< version("c45") = "0"
< version("c46") = "0"
< version("c47") = "0"
< version("c48") = "0"
< version("c49") = "0"
< version("c50") = "0"
< version("c51") = "0"
< version("c52") = "0"
< version("c53") = "0"
< version("c54") = "0"
< version("c55") = "0"
< version("c56") = "0"
< version("c57") = "0"
< version("c58") = "0"
< version("c59") = "0"
< version("c60") = "0"
< version("c61") = "0"
< version("c62") = "0"
< version("c63") = "0"
< version("c64") = "0"
< version("c65") = "0"
< version("c66") = "0"
< version("c67") = "0"
< version("c68") = "0"
< version("c69") = "0"
< version("c70") = "0"
< version("c71") = "0"
< version("c72") = "0"
< version("c73") = "0"
< version("c74") = "0"
< version("c75") = "0"
< version("c76") = "0"
< version("c77") = "0"
< version("c78") = "0"
< version("c79") = "0"
< version("c80") = "0"
< version("c81") = "0"
< version("c82") = "0"
< version("c83") = "0"
< version("c84") = "0"
< version("c85") = "0"
< version("c86") = "0"
< version("c87") = "0"
< version("c88") = "0"
< version("c89") = "0"
< version("c90") = "0"
< version("c91") = "0"
< version("c92") = "0"
< version("c93") = "0"
< version("c94") = "0"
< version("c95") = "0"
< version("c96") = "0"
< version("c97") = "0"
< version("c98") = "0"
< version("c99") = "0"
< version("c100") = "0"
< version("c101") = "0"
< version("c102") = "0"
< version("c103") = "0"
< version("c104") = "0"
< version("c105") = "0"
< version("c106") = "0"
< version("c107") = "0"
< version("c108") = "0"
< version("c109") = "0"
< version("c110") = "0"
< version("c111") = "0"
< version("c112") = "0"
< version("c113") = "0"
< version("c114") = "0"
< version("c115") = "0"
< version("c116") = "0"
< version("c117") = "0"
< version("c118") = "0"
< version("c119") = "0"
< version("c120") = "0"
< version("c121") = "0"
< version("c122") = "0"
< version("c123") = "0"
< version("c124") = "0"
< version("c125") = "0"
< version("c126") = "0"
< version("c127") = "0"
< version("c128") = "0"
< 
< put many/x v
< 
< 
