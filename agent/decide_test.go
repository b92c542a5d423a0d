package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/config"
)

const (
	asAuto   = config.ModeAuto
	asMember = config.ModeMember
	asProxy  = config.ModeProxy
)

// recorded is a sound dir of a node of one mode, recorded while --mode was wanted.
func recorded(mode, wanted config.Mode) situation {
	s := situation{record: &record{Mode: mode, Wanted: wanted, NodeID: "01"}, node: "01"}
	if mode == asMember {
		s.member = filled
	} else {
		s.proxy = filled
	}
	return s
}

func TestModeTable(t *testing.T) {
	type row struct {
		name string
		s    situation
		want []config.Mode // the row holds for each of these
		do   action
		mode config.Mode
		says []string // of a refusal
	}
	with := func(s situation, change func(*situation)) situation { change(&s); return s }
	join := situation{join: true, token: true}
	answered := func(a answer, fallback string) situation {
		return with(join, func(s *situation) { s.answer, s.fallback = a, fallback })
	}
	all, voting := []config.Mode{asAuto, asMember, asProxy}, []config.Mode{asAuto, asMember}
	waysOut := []string{"recorded as a member", "agent demote", "agent leave --force", "--mode=proxy --join"}
	rows := []row{
		// The rows of the contract, in its order.
		{name: "empty, alone", want: voting, do: bootstrapMember, mode: asMember},
		{name: "empty, a proxy of nothing", want: []config.Mode{asProxy}, says: []string{"--join"}},
		{name: "empty, join, not asked yet", s: join, want: all, do: askCluster},
		{name: "empty, join, a voter is wanted", s: answered(voterWanted, ""), want: voting, do: joinMember, mode: asMember},
		{name: "empty, join, a voter is wanted but a proxy asks", s: answered(voterWanted, ""), want: []config.Mode{asProxy}, do: becomeProxy, mode: asProxy},
		{name: "empty, join, full", s: answered(clusterFull, ""), want: []config.Mode{asAuto, asProxy}, do: becomeProxy, mode: asProxy},
		{name: "empty, join, full, a member or nothing", s: answered(clusterFull, ""), want: []config.Mode{asMember}, says: []string{"all the members", "--fallback=proxy"}},
		{name: "empty, join, full, no fallback", s: answered(clusterFull, "none"), want: voting, says: []string{"--fallback=proxy"}},
		{name: "empty, join, full, fallback", s: answered(clusterFull, "proxy"), want: all, do: becomeProxy, mode: asProxy},
		{name: "empty, join, nobody answers", s: answered(nobodyAnswers, ""), want: voting, do: keepAsking},
		{name: "empty, join, no token", s: situation{join: true}, want: all, says: []string{"token", "HOLDFAST_TOKEN"}},
		{name: "empty, join, nobody answers a proxy", s: answered(nobodyAnswers, ""), want: []config.Mode{asProxy}, do: serveUnjoined, mode: asProxy},
		{name: "a member goes on", s: recorded(asMember, asAuto), want: voting, do: goOn, mode: asMember},
		{name: "a proxy goes on", s: recorded(asProxy, asAuto), want: []config.Mode{asAuto, asProxy}, do: goOn, mode: asProxy},
		{name: "as when recorded: a fallback", s: recorded(asProxy, asMember), want: all, do: goOn, mode: asProxy},
		{name: "as when recorded: a live switch", s: recorded(asMember, asProxy), want: all, do: goOn, mode: asMember},
		{name: "a member told to be a proxy", s: recorded(asMember, asAuto), want: []config.Mode{asProxy}, says: waysOut},
		{name: "a member as such told to be a proxy", s: recorded(asMember, asMember), want: []config.Mode{asProxy}, says: waysOut},
		{name: "a proxy told to be a member", s: recorded(asProxy, asAuto), want: []config.Mode{asMember}, says: []string{"recorded as a proxy", "agent promote"}},
		{name: "both dirs", s: with(recorded(asMember, asAuto), func(s *situation) { s.proxy = filled }), want: all, says: []string{"recorded as a member", "member/ (there)", "proxy/ (there)"}},
		{name: "both dirs, empty ones too", s: with(recorded(asProxy, asAuto), func(s *situation) { s.member = empty }), want: all, says: []string{"recorded as a proxy", "member/ (empty)", "proxy/ (there)"}},
		{name: "both dirs, nothing recorded", s: situation{member: filled, proxy: filled}, want: all, says: []string{"no mode.json says", "member/", "proxy/"}},
		{name: "a member without mode.json", s: situation{member: filled, node: "01"}, want: all, says: []string{"no mode.json", "agent recover", "--join"}},
		{name: "a member whose recovery was cut short", s: situation{member: filled, node: "01", replaced: filled}, want: all, says: []string{"agent recover"}},
		{name: "a proxy's damaged mode.json", s: situation{proxy: filled, node: "01", damage: fmt.Errorf("mode.json: %w", errDamaged)}, want: all, says: []string{"mode.json", "damaged", "--join"}},
		{name: "damaged mode.json", s: situation{member: filled, node: "01", damage: fmt.Errorf("mode.json: %w", errDamaged)}, want: all, says: []string{"mode.json", "damaged", "backup"}},

		// --join and tokens are ignored on a dir that has a mode.
		{name: "recorded, join without a token", s: with(recorded(asMember, asAuto), func(s *situation) { s.join = true }), want: voting, do: goOn, mode: asMember},

		// A member whose data is gone.
		{name: "lost", s: with(recorded(asMember, asAuto), func(s *situation) { s.member = absent }), want: voting, says: []string{"member/ is missing", "--join"}},
		{name: "lost, or not mounted", s: with(recorded(asMember, asAuto), func(s *situation) { s.member, s.join = empty, true }), want: voting, says: []string{"member/ is empty", "mount"}},
		{name: "lost, join", s: with(recorded(asMember, asAuto), func(s *situation) { s.member, s.join = absent, true }), want: voting, do: askCluster},
		{name: "lost, and taken in again", s: with(recorded(asMember, asAuto), func(s *situation) { s.member, s.join, s.answer = absent, true, voterWanted }), want: voting, do: joinMember, mode: asMember},
		{name: "lost, and full", s: with(recorded(asMember, asAuto), func(s *situation) { s.member, s.join, s.answer = absent, true, clusterFull }), want: []config.Mode{asAuto}, do: becomeProxy, mode: asProxy},
		{name: "lost, told to be a proxy", s: with(recorded(asMember, asAuto), func(s *situation) { s.member, s.join = absent, true }), want: []config.Mode{asProxy}, says: []string{"recorded as a member"}},

		// A bootstrap cut short.
		{name: "staged", s: situation{staged: empty, node: "01"}, want: voting, do: bootstrapMember, mode: asMember},
		{name: "staged, and now a proxy is wanted", s: situation{staged: empty, node: "01"}, want: []config.Mode{asProxy}, says: []string{"--join"}},
		{name: "staged with something in it", s: situation{staged: filled, node: "01"}, want: all, says: []string{"member.new/"}},
		{name: "journaled", s: with(recorded(asMember, asAuto), func(s *situation) {
			s.member, s.staged, s.record.Switch = absent, empty, &change{Kind: bootstrapping}
		}), want: voting, do: finishSwitch, mode: asMember},
		{name: "made", s: with(recorded(asMember, asAuto), func(s *situation) { s.member, s.record.Switch = empty, &change{Kind: bootstrapping} }), want: voting, do: finishSwitch, mode: asMember},
		{name: "founding", s: with(recorded(asMember, asAuto), func(s *situation) { s.record.Switch = &change{Kind: bootstrapping} }), want: voting, do: finishSwitch, mode: asMember},
		{name: "founding, and now a proxy is wanted", s: with(recorded(asMember, asAuto), func(s *situation) { s.record.Switch = &change{Kind: bootstrapping} }), want: []config.Mode{asProxy}, says: waysOut},
		{name: "founding beside a cache", s: with(recorded(asMember, asAuto), func(s *situation) { s.proxy, s.record.Switch = filled, &change{Kind: bootstrapping} }), want: all, says: []string{"proxy/"}},
		{name: "a switch of another version", s: with(recorded(asMember, asAuto), func(s *situation) { s.record.Switch = &change{Kind: "divide"} }), want: all, says: []string{"divide", "version"}},

		// What no crash explains.
		{name: "a newer mode.json", s: situation{damage: fmt.Errorf("mode.json: %w", errNewer)}, want: all, says: []string{"newer version"}},
		{name: "an unknown mode", s: situation{record: &record{Mode: "witness"}, node: "01"}, want: all, says: []string{"witness"}},
		{name: "member data without a record", s: situation{member: filled}, want: all, says: []string{"no mode.json"}},
		{name: "a cache without a record", s: situation{proxy: filled}, want: all, says: []string{"no mode.json"}},
		{name: "a member without its data", s: with(recorded(asMember, asAuto), func(s *situation) { s.member = empty }), want: all, says: []string{"member/ is empty"}},
		{name: "a member without its folder", s: with(recorded(asMember, asAuto), func(s *situation) { s.member = absent }), want: all, says: []string{"member/ is missing"}},
		{name: "a member without its identity", s: with(recorded(asMember, asAuto), func(s *situation) { s.node = "" }), want: all, says: []string{"identity/node.pem"}},
		{name: "the identity of another node", s: with(recorded(asMember, asAuto), func(s *situation) { s.node = "02" }), want: all, says: []string{"node 01", "node 02"}},
	}
	for _, r := range rows {
		for _, wanted := range r.want {
			t.Run(fmt.Sprintf("%s, --mode=%s", r.name, wanted), func(t *testing.T) {
				r.s.dir, r.s.wanted = "/d", wanted
				got, err := decide(r.s)
				if r.says == nil {
					if err != nil || got.do != r.do || got.mode != r.mode {
						t.Fatalf("decided %+v, %v; want action %d, mode %q", got, err, r.do, r.mode)
					}
					return
				}
				if got != (decision{}) || ExitCode(err) != ExitConfig {
					t.Fatalf("decided %+v, %v (exit %d); want a refusal with exit %d", got, err, ExitCode(err), ExitConfig)
				}
				for _, part := range r.says {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("the refusal does not say %q: %v", part, err)
					}
				}
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("the refusal is more than a line: %v", err)
				}
			})
		}
	}
}

func TestExitCodeIsFoundInTheChain(t *testing.T) {
	for want, err := range map[int]error{
		ExitOK:        nil,
		ExitInternal:  errors.New("no idea"),
		ExitConfig:    fmt.Errorf("start: %w", refusef("no")),
		ExitTemporary: fmt.Errorf("start: %w", errors.Join(temporaryf("later"), errors.New("and the log"))),
	} {
		if got := ExitCode(err); got != want {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, want)
		}
	}
}
