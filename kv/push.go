package kv

// WatchSink takes what a pushed watch stream brings. Its methods are called one at a time.
type WatchSink interface {
	// Bring is called with each Batch. It may block, and nobody but this stream waits then. False: the consumer has had enough.
	Bring(b Batch) (more bool)
	// End is called once, after everything else, with what Watch would yield as an error; nil: the stream has come to its
	// end, or was stopped.
	End(err error)
}

// WatchPush is a watch stream that brings what it has by calling a WatchSink, so that nobody has to wait for it: it has a
// goroutine while there is something to bring, and none while it rests. Its methods may be called concurrently.
type WatchPush interface {
	// Start has the stream begin; nothing is brought before. It has to be called, once.
	Start()
	// Ask is for what would else come by WatchSpec.Control. It waits while too much of that waits.
	Ask(c WatchControl)
	// Cut is Ask for the end of a watch, and never waits.
	Cut(id int64)
	// Close says that nothing more will be asked for: the stream ends with its last watch.
	Close()
	// Stop ends the stream soon, and does not wait for that.
	Stop()
}
