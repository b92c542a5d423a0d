package member

import (
	"errors"
	"fmt"

	"github.com/golang/snappy"
)

// What goes through the log is a command as package wire encodes it, or, if that is long and compresses well, packed:
//
//	0x00 'S' block    a command, compressed as a snappy block
//
// No message of package wire begins with a zero, so that the two are told apart, and a version that does not know packed
// commands stops at one. The library could compress every command, short ones too; that took a tenth of the CPU of a
// short PUT, most of it because the compressor's 32 KiB of locals made the stack of each caller grow.
const (
	packedMark   = 0
	packedSnappy = 'S'
	packedHeader = 2

	// packFrom is the length from which a command is tried: the shorter ones save nothing worth having on flash, which
	// takes blocks of 4 KiB, or on a link.
	packFrom = 1 << 10
	// packMax is the length up to which a command is packed. The library refuses one that is longer than its log in memory
	// may be, and packed it would not see that.
	packMax = maxInMemLog

	// packGain is the part of a command, one in packGain, that has to be saved: less is not worth unpacking it on every
	// member, and again when the log is replayed.
	packGain = 8
)

// packCommand returns cmd, or what stands for it in the log. It may write to the rest of buf, which is memory to be used again,
// and returns that grown where it had to.
func packCommand(buf, cmd []byte) (grown, entry []byte) {
	if len(cmd) < packFrom || len(cmd) > packMax {
		return buf, cmd
	}
	most := packedHeader + snappy.MaxEncodedLen(len(cmd))
	if cap(buf) < most {
		buf = make([]byte, most)
	}
	buf = buf[:most]
	buf[0], buf[1] = packedMark, packedSnappy
	block := snappy.Encode(buf[packedHeader:], cmd)
	if packedHeader+len(block) > len(cmd)-len(cmd)/packGain {
		return buf, cmd
	}
	return buf, buf[:packedHeader+len(block)]
}

var errPacked = errors.New("a packed command that cannot be unpacked")

// unpackCommand is the inverse of packCommand. What is not packed is returned as it is; limit bounds what is.
func unpackCommand(entry []byte, limit int) ([]byte, error) {
	if len(entry) == 0 || entry[0] != packedMark {
		return entry, nil
	}
	if len(entry) < packedHeader || entry[1] != packedSnappy {
		return nil, fmt.Errorf("%w: it begins with %x", errPacked, entry[:min(len(entry), packedHeader)])
	}
	block := entry[packedHeader:]
	n, err := snappy.DecodedLen(block)
	if err == nil && n > limit {
		err = fmt.Errorf("%d bytes of at most %d", n, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPacked, err)
	}
	cmd, err := snappy.Decode(nil, block)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPacked, err)
	}
	return cmd, nil
}
