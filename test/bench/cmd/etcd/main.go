// Command etcd is the etcd server, built from its Go module, so that the bench needs no download of its own.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
