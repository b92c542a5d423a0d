//go:build deps

package deps

import (
	_ "github.com/anishathalye/porcupine"
	_ "github.com/lni/dragonboat/v4"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/spf13/cobra"
	_ "github.com/spf13/viper"
	_ "github.com/quic-go/quic-go"
	_ "go.etcd.io/bbolt"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/text/language"
	_ "pgregory.net/rapid"
)
