// Package courier takes small messages to one peer over several lossy datagram paths, in one round trip as often as the
// measured loss allows.
//
// A datagram has a number and holds messages, and in each goes an account of what has come from the other side: the
// largest number, and which of the 64 before it. A message that matters is sent again at 1.25 smoothed round trips
// unless a datagram that held it has been acknowledged, and from the start in as many copies as the loss asks for:
//
//	loss (moving average)   copies of what matters
//	under 0.3 %             one
//	0.3 to 3 %              two, on different paths
//	3 to 8 %                two, and each datagram repeats the last short messages, as acknowledgements are
//	above 8 %               three, spread in time
//
// A level is left only at half the loss at which it is entered. Where losses come in runs, which the courier sees by the
// datagram before a lost one being lost too, copies are spread in time as well: those of the same instant share a fate.
// All copies and repeats together are bounded by a byte budget; what is beyond it goes once.
//
// Messages may come twice, late, out of order or never. Whoever receives them numbers them and looks.
//
// # Locks
//
// Courier.mu is held while datagrams are handed to paths, which must not block, and never while messages are delivered.
package courier
