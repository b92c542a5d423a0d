package enroll

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// listPart is a piece of the list of nodes on its way to a node that asks for it. The last one has Done, or why there is none.
type listPart struct {
	Part  json.RawMessage `json:"part,omitempty"`
	Done  bool            `json:"done,omitempty"`
	Error string          `json:"error,omitempty"`
	Code  kv.Code         `json:"code,omitempty"`
}

// listPartsMax bounds a list: 64 MiB.
const listPartsMax = 1024

// list answers a node that asks for the list of nodes.
func (r *Roll) list(ctx context.Context, out io.Writer) error {
	var parts []json.RawMessage
	err := error(kv.Errorf(kv.Unsupported, "this member keeps no list of nodes"))
	if r.opts.List != nil {
		parts, err = r.opts.List(ctx)
	}
	last := listPart{Done: true}
	if err != nil {
		parts, last.Error, last.Code = nil, err.Error(), kv.CodeOf(err)
	}
	for _, p := range parts {
		if err := writePart(out, listPart{Part: p}); err != nil {
			return err
		}
	}
	return writePart(out, last)
}

func writePart(out io.Writer, p listPart) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return wire.WriteFrame(out, b)
}

// AskList asks for the list of nodes, on a new stream of an uplink.
func AskList(in *bufio.Reader, out io.Writer, boot string, self Report) ([]json.RawMessage, error) {
	if err := wire.WriteFrame(out, wire.UplinkRequest{Verb: wire.UplinkNode}.Append(nil)); err != nil {
		return nil, err
	}
	b, err := json.Marshal(Hello{Boot: boot, Report: self, List: true})
	if err != nil {
		return nil, err
	}
	if err := wire.WriteFrame(out, b); err != nil {
		return nil, err
	}
	var all []json.RawMessage
	for len(all) < listPartsMax {
		var p listPart
		switch err := readControl(in, &p); {
		case err != nil:
			return nil, err
		case p.Error != "":
			return nil, &kv.Error{Code: p.Code, Detail: p.Error}
		case p.Done:
			return all, nil
		case p.Part == nil:
			return nil, kv.Errorf(kv.Unsupported, "the member is of a version that shows the list of nodes to members only: run the command on one")
		}
		all = append(all, p.Part)
	}
	return nil, errors.New("the list of nodes is too long")
}
