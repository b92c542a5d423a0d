// Package agent composes a node from a config.Config and runs it. It is the only package that knows all the others.
//
//	a, err := agent.Start(ctx, cfg)  // data dir locked and decided upon, listeners open
//	<-a.Ready()                      // log replayed, and a leader known or waited for
//	...
//	err = a.Stop(ctx)                // drained, flushed, lock released
//
// Several agents run in one process, each with a data dir of its own: there is no global state. Everything that touches
// the outside comes in through Options.
//
// What a node is, is written in its data dir (mode.go), and what the configuration wants is weighed against it by one
// pure function, decide. Nothing is created before that has said yes, and every step from there can be cut short by a
// power failure: the next start completes or undoes it.
package agent
