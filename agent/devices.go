package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"holdfast/api"
	"holdfast/auth"
	"holdfast/enroll"
	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/member"
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
	seen := d.a.devicesEverywhere(ctx)
	for _, op := range page.Ops {
		for _, entry := range op.KVs {
			dev, err := wire.DecodeDevice(entry.Value)
			if err != nil {
				return nil, kv.Errorf(kv.Internal, "the token %s cannot be read: %w", entry.Key, err)
			}
			info := api.DeviceInfo{ID: string(entry.Key), Name: dev.Name, Prefixes: dev.Prefixes, Rate: dev.Rate, ShareKiB: dev.Share, LastSeen: timeOf(seen.At(string(entry.Key)))}
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

// devicesSeen is when the tokens of devices were seen last by this node and by those that are connected to it.
func (a *Agent) devicesSeen(ctx context.Context, r *roll) enroll.LastSeen {
	seen := enroll.NewLastSeen(a.lastSeen())
	if r != nil {
		seen.Merge(r.Devices(ctx))
	}
	return seen
}

// devicesEverywhere is devicesSeen of every member that answers. A proxy tells its own.
func (a *Agent) devicesEverywhere(ctx context.Context) enroll.LastSeen {
	r := a.roll.Load()
	if r == nil {
		return a.devicesSeen(ctx, nil)
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	all := enroll.LastSeen{}
	take := func(seen enroll.LastSeen) {
		mu.Lock()
		defer mu.Unlock()
		all.Merge(seen)
	}
	asking.Go(func() { take(a.devicesSeen(ctx, r)) })
	r.others(func(s member.Seat) {
		if got, err := r.ask(ctx, s.Replica, question{Devices: true}); err == nil { // one that does not answer has seen what it has
			take(got.Devices)
		}
	})
	asking.Wait()
	return all
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
