package agent

import (
	"context"
	"slices"
	"time"

	"holdfast/api"
	"holdfast/auth"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// devices makes, lists and ends the tokens of devices, through the gate like any other change: who asks is judged there.
type devices struct{ a *Agent }

var _ api.Devices = devices{}

var verbNames = []struct {
	verb kv.Verbs
	name string
}{{kv.VerbGet, api.VerbGet}, {kv.VerbPut, api.VerbPut}, {kv.VerbDelete, api.VerbDelete}, {kv.VerbWatch, api.VerbWatch}}

func (d devices) do(ctx context.Context, op kv.Op) error {
	_, err := api.Signed(d.a.gate).Do(ctx, kv.Command{Ops: []kv.Op{op}})
	return err
}

// Create makes a token.
func (d devices) Create(ctx context.Context, r api.DeviceRequest) (api.CreatedDevice, error) {
	dev := &kv.Device{Name: r.Name, Prefixes: r.Prefixes, Rate: r.Rate, Share: r.ShareKiB}
	for _, v := range verbNames {
		if slices.Contains(r.Allow, v.name) {
			dev.Verbs |= v.verb
		}
	}
	var out api.CreatedDevice
	if r.TTL > 0 {
		out.Expires = timeOf(d.a.judgedTime().Add(r.TTL))
		dev.Expires = out.Expires.Unix()
	}
	out.ID, out.Token = auth.NewDevice(dev)
	if err := d.do(ctx, kv.SetDevice{ID: out.ID, Device: dev}); err != nil {
		return api.CreatedDevice{}, err
	}
	return out, nil
}

// List lists the tokens.
func (d devices) List(ctx context.Context) ([]api.DeviceInfo, error) {
	page, err := api.Signed(d.a.gate).Read(ctx, kv.Query{Ops: []kv.Op{kv.ReadAuth{What: kv.AuthDevices}}})
	if err != nil {
		return nil, err
	}
	var all []api.DeviceInfo
	seen := d.a.lastSeen()
	for _, op := range page.Ops {
		for _, entry := range op.KVs {
			dev, err := wire.DecodeDevice(entry.Value)
			if err != nil {
				return nil, kv.Errorf(kv.Internal, "the token %s cannot be read: %w", entry.Key, err)
			}
			info := api.DeviceInfo{ID: string(entry.Key), Name: dev.Name, Prefixes: dev.Prefixes, Rate: dev.Rate, ShareKiB: dev.Share, LastSeen: timeOf(seen[string(entry.Key)])}
			for _, v := range verbNames {
				if dev.Verbs&v.verb != 0 {
					info.Allow = append(info.Allow, v.name)
				}
			}
			if dev.Expires != 0 {
				info.Expires = timeOf(time.Unix(dev.Expires, 0))
			}
			all = append(all, info)
		}
	}
	return all, nil
}

// Revoke ends a token.
func (d devices) Revoke(ctx context.Context, id string) error {
	return d.do(ctx, kv.SetDevice{ID: id})
}

// SetScope limits a node.
func (d devices) SetScope(ctx context.Context, node string, s *api.NodeScope) error {
	if s == nil {
		return d.do(ctx, kv.SetScope{Node: node})
	}
	return d.do(ctx, kv.SetScope{Node: node, Scope: &kv.NodeScope{Roles: s.Roles, Prefixes: s.Prefixes}})
}
