//go:build !linux

package netwatch

import "context"

func run(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}
