// Package nodehost is the raft library's node, where it compiles.
//
// The library brings a storage engine, pebble, that member does not use and that does not compile for 32 bits. Programs for
// those processors, and any that is built with the tag proxyonly, get the same names with nothing behind them: New is an
// error, so that nobody ever has a Host. They are proxies, and agent refuses to make them anything else; see Built.
package nodehost
