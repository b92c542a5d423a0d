package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/enroll"
	"holdfast/internal/failpoint"
	"holdfast/transport"
)

// endpointsFile, in the folder of a proxy, has the addresses of members, the last good one first. It is written only
// when that order changes.
const endpointsFile = "endpoints.json"

// The pause between two attempts to join: an attempt costs about 7 kB on a link that is metered.
const (
	joinFirst = time.Second
	joinMax   = time.Minute
)

// errRefused is an answer of the cluster that trying again does not change.
func errRefused(err error) error {
	return &exitError{ExitConfig, fmt.Errorf("joining the cluster: %w", err)}
}

// token reads the join token; the file wins.
func (a *Agent) token() (enroll.Token, error) {
	text := a.cfg.Token.Reveal()
	where := "HOLDFAST_TOKEN"
	if f := a.cfg.TokenFile; f != "" {
		where = f
		b, err := os.ReadFile(f)
		if err != nil {
			return enroll.Token{}, refusef("token-file: %w", err)
		}
		text = string(b)
	}
	t, err := enroll.ParseToken(text)
	if err != nil {
		return t, refusef("%s: %w: make a token with `agent token create` on a member", where, err)
	}
	return t, nil
}

// join asks with a token until the cluster takes this node in as what it wishes to be, and takes over the certificate. It
// ends with an error if the cluster says that it never will, and with enroll.ErrFull if it wants no more members.
func (a *Agent) join(ctx context.Context, t enroll.Token, w enroll.Wish, meanwhile string, worry func(error)) (enroll.Joined, error) {
	w.Name = a.cfg.Name
	return a.askIn(ctx, meanwhile, worry, func(at []string) (enroll.Joined, error) {
		return enroll.Join(ctx, a.net.ep, at, t, a.net.identity.Load(), w)
	})
}

// askIn is join with a way to ask, to which it names addresses of the cluster.
func (a *Agent) askIn(ctx context.Context, meanwhile string, worry func(error), ask func(at []string) (enroll.Joined, error)) (got enroll.Joined, err error) {
	at, err := a.endpoints()
	if err != nil {
		return got, err
	}
	pause := joinFirst
	for {
		got, err = ask(at)
		switch {
		case err == nil:
			if err := a.dir.step(failpoint.JoinAdmitted); err != nil {
				return got, err
			}
			if err := a.become(got.Identity); err != nil {
				return got, err
			}
			if err := a.dir.step(failpoint.JoinCertified); err != nil {
				return got, err
			}
			info := got.Identity.Info()
			a.opts.Log.Info("joined", "cluster", info.Cluster, "as", string(info.Role), "scope", info.Scope)
			return got, nil
		case ctx.Err() != nil:
			return got, ctx.Err() // cut off by the stop; the next start goes on
		case errors.Is(err, enroll.ErrFull), errors.Is(err, enroll.ErrNoSeat):
			return got, err
		case final(err):
			return got, errRefused(err)
		}
		worry(err)
		a.opts.Log.Warn("not joined yet; "+meanwhile, "join", strings.Join(at, ","), "err", err, "remedy", joinRemedy(err), "again_in", pause.String())
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return got, ctx.Err()
		}
		pause = min(2*pause, joinMax)
	}
}

// joinRemedy is what an operator looks at when no node answers.
func joinRemedy(err error) string {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "that looks like a port for clients (2379): name the one for nodes in --join, which is that of their peer-listen (2380)"
	}
	return "agent check udp asks the addresses of --join"
}

// final tells refusals from troubles: the cluster said no, or somebody else answered than the token names.
func final(err error) bool {
	if _, ok := errors.AsType[*enroll.Refused](err); ok {
		return true
	}
	r, ok := errors.AsType[*transport.RefusedError](err)
	return ok && (r.Why == transport.UnknownCA || r.Why == transport.OtherCluster)
}

// endpoints are where members may be found: those learned, then those configured.
func (a *Agent) endpoints() ([]string, error) {
	var all []string
	b, err := os.ReadFile(a.dir.join(proxyName, endpointsFile))
	switch {
	case err == nil:
		if err := json.Unmarshal(b, &all); err != nil {
			a.opts.Log.Warn("learned endpoints cannot be read; those of --join are used", "file", endpointsFile, "err", err)
			all = nil
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, storageError(err)
	}
	for _, e := range a.cfg.Join {
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return nil, refusef("this proxy knows no address of its cluster: set --join to the address of any of its nodes")
	}
	return all, nil
}

// keepEndpoints remembers an order of endpoints that is new.
func (a *Agent) keepEndpoints(order []string) {
	b, err := json.Marshal(order)
	if err == nil {
		err = writeFile(a.dir.join(proxyName, endpointsFile), b)
	}
	if err != nil {
		a.opts.Log.Warn("endpoints not remembered", "err", err)
	}
}
