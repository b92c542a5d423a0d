package uplink

import (
	"testing"

	"holdfast/api/apitest"
	"holdfast/internal/wire"
	"holdfast/kv"
)

func TestQueuedWritesComeOnlyFromTheirNodeOrFromWhoItIsBehind(t *testing.T) {
	const box, till = "000000000000000000000000000000b0", "000000000000000000000000000000a0"
	origin := func(node string) [16]byte {
		id, err := kv.ParseNodeID(node)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	s := New(apitest.NewMemory(), nil)
	peer := Peer{Node: box, Scope: []string{""}, below: &below{}}
	open := func(node string) kv.Command {
		return kv.Command{Ops: []kv.Op{kv.OpenQueue{Origin: origin(node)}}}
	}
	numbered := func(node string) kv.Command {
		return kv.Command{ID: kv.ID{Seq: kv.Seq{Origin: origin(node), Epoch: 1, N: 1}}, Ops: []kv.Op{kv.Put{Key: []byte(node)}}}
	}
	batch := func(node string) kv.Command {
		return kv.Command{Ops: []kv.Op{kv.Each{Commands: []kv.Command{numbered(node)}}}}
	}
	try := func(c kv.Command) kv.Code {
		out, err := wire.DecodeOutcome(s.do(t.Context(), wire.AppendCommand(nil, c), peer))
		if err != nil {
			t.Fatal(err)
		}
		return kv.CodeOf(asErr(out.Err))
	}
	expect := func(when, node string, want bool) {
		t.Helper()
		for name, c := range map[string]kv.Command{"open": open(node), "number": numbered(node), "batch": batch(node)} {
			if refused := try(c) == kv.UpstreamUnavailable; refused == want {
				t.Errorf("%s: %s for %s: refused %v", when, name, node, refused)
			}
		}
	}
	expect("its own", box, true)
	expect("of another", till, false)
	leave, again := peer.below.enter(till), peer.below.enter(till)
	expect("of one behind it", till, true)
	leave() // the tunnel was opened anew before the old one had ended
	expect("of one behind it still", till, true)
	again()
	expect("of one that has gone", till, false)
	if who := peer.speaker(till); who != box {
		t.Errorf("speaks as %s", who)
	}
}
