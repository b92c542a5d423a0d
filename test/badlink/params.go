//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Params is the shape of one direction of one link. The zero value is a perfect wire.
type Params struct {
	Delay      time.Duration `json:"delay"`
	Jitter     time.Duration `json:"jitter"`     // extra delay, uniform in [0, jitter); never reorders
	Loss       float64       `json:"loss"`       // independent loss probability
	UDPLoss    float64       `json:"udp"`        // the same for UDP alone, as a firewall that blocks or throttles it
	GEp        float64       `json:"ge_p"`       // Gilbert-Elliott: P(good -> bad) per packet
	GEr        float64       `json:"ge_r"`       // P(bad -> good) per packet
	GEbad      float64       `json:"ge_bad"`     // loss probability in the bad state
	GEgood     float64       `json:"ge_good"`    // loss probability in the good state
	OutUp      time.Duration `json:"outage_up"`  // mean time between outages (exponential), 0 = none
	OutDown    time.Duration `json:"outage_for"` // mean outage length (exponential)
	Rate       float64       `json:"rate"`       // bits per second, 0 = unlimited
	QueueBytes int           `json:"queue_bytes"`
	QueueTime  time.Duration `json:"queue_time"` // used when QueueBytes is 0; default 100ms
	Dup        float64       `json:"dup"`
	Reorder    float64       `json:"reorder"`    // probability that a packet is held back
	ReorderBy  time.Duration `json:"reorder_by"` // by this much; default 5ms
	MTU        int           `json:"mtu"`        // larger packets are dropped silently
	Cut        bool          `json:"cut"`        // partitioned
}

func (p *Params) queueLimit() int {
	if p.QueueBytes > 0 {
		return p.QueueBytes
	}
	t := p.QueueTime
	if t == 0 {
		t = 100 * time.Millisecond
	}
	return max(int(p.Rate/8*t.Seconds()), 8*1500)
}

// parameters are the names that Set knows.
const parameters = "delay, jitter, loss, udp, burst, ge, outage, rate, queue, dup, reorder, reorder-by, mtu"

// Set changes one parameter, as the command line writes it. After an error it may be changed in part.
func (p *Params) Set(key, val string) (err error) {
	switch key {
	case "delay":
		p.Delay, err = parseDur(val)
	case "jitter":
		p.Jitter, err = parseDur(val)
	case "loss":
		p.Loss, err = parseProb(val)
	case "udp":
		p.UDPLoss, err = parseProb(val)
	case "burst": // MEAN-LOSS%/MEAN-BURST-LENGTH
		if val == "off" || val == "0" {
			p.GEp, p.GEr, p.GEbad, p.GEgood = 0, 0, 0, 0
			return nil
		}
		a, b, ok := strings.Cut(val, "/")
		loss, e1 := parseProb(a)
		n, e2 := strconv.ParseFloat(b, 64)
		if !ok || e1 != nil || e2 != nil || n < 1 || loss >= 1 {
			return fmt.Errorf("burst wants LOSS%%/LENGTH (5%%/4) or off, not %q", val)
		}
		p.GEr = 1 / n
		p.GEp = loss * p.GEr / (1 - loss)
		p.GEbad, p.GEgood = 1, 0
	case "ge": // p,r[,bad[,good]] in percent
		if val == "off" {
			p.GEp, p.GEr, p.GEbad, p.GEgood = 0, 0, 0, 0
			return nil
		}
		v := []float64{0, 0, 1, 0}
		f := strings.Split(val, ",")
		if len(f) < 2 || len(f) > 4 {
			return fmt.Errorf("ge wants p%%,r%%[,bad%%[,good%%]] or off, not %q", val)
		}
		for i, s := range f {
			if v[i], err = parseProb(s); err != nil {
				return err
			}
		}
		p.GEp, p.GEr, p.GEbad, p.GEgood = v[0], v[1], v[2], v[3]
	case "outage": // MEAN-UP/MEAN-DOWN
		if val == "off" {
			p.OutUp, p.OutDown = 0, 0
			return nil
		}
		a, b, ok := strings.Cut(val, "/")
		if !ok {
			return fmt.Errorf("outage wants UP/DOWN (20s/500ms) or off, not %q", val)
		}
		if p.OutUp, err = parseDur(a); err == nil {
			p.OutDown, err = parseDur(b)
		}
	case "rate":
		p.Rate, err = parseRate(val)
	case "queue": // bytes (64k) or time (100ms)
		if d, e := time.ParseDuration(val); e == nil {
			p.QueueTime, p.QueueBytes = d, 0
			return nil
		}
		p.QueueBytes, err = parseSize(val)
	case "dup":
		p.Dup, err = parseProb(val)
	case "reorder":
		p.Reorder, err = parseProb(val)
	case "reorder-by":
		p.ReorderBy, err = parseDur(val)
	case "mtu":
		p.MTU, err = parseSize(val)
	default:
		return fmt.Errorf("unknown parameter %q (one of %s)", key, parameters)
	}
	return err
}

func parseProb(s string) (float64, error) {
	if s == "off" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || v < 0 || v > 100 {
		return 0, fmt.Errorf("bad percentage %q", s)
	}
	return v / 100, nil
}

func parseUnits(s string, units map[string]float64) (float64, error) {
	if s == "off" {
		return 0, nil
	}
	ls := strings.ToLower(s)
	i := len(ls)
	for i > 0 && (ls[i-1] < '0' || ls[i-1] > '9') {
		i--
	}
	m, ok := units[ls[i:]]
	v, err := strconv.ParseFloat(ls[:i], 64)
	if !ok || err != nil || v < 0 {
		return 0, fmt.Errorf("bad value %q", s)
	}
	return v * m, nil
}

func parseRate(s string) (float64, error) {
	return parseUnits(s, map[string]float64{"": 1, "bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9})
}

func parseSize(s string) (int, error) {
	v, err := parseUnits(s, map[string]float64{"": 1, "b": 1, "k": 1024, "kb": 1024, "m": 1 << 20, "mb": 1 << 20})
	return int(v), err
}

func parseDur(s string) (time.Duration, error) {
	if s == "0" || s == "off" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("negative duration %q", s)
	}
	return d, err
}

func pct(f float64) string { return strconv.FormatFloat(f*100, 'g', 4, 64) + "%" }

func (p Params) String() string {
	var b strings.Builder
	add := func(f string, a ...any) { fmt.Fprintf(&b, " "+f, a...) }
	if p.Cut {
		add("CUT")
	}
	add("delay %v", p.Delay)
	if p.Jitter > 0 {
		add("jitter %v", p.Jitter)
	}
	if p.Loss > 0 {
		add("loss %s", pct(p.Loss))
	}
	if p.UDPLoss > 0 {
		add("udp %s", pct(p.UDPLoss))
	}
	if p.GEp > 0 {
		add("ge %s,%s,%s,%s", pct(p.GEp), pct(p.GEr), pct(p.GEbad), pct(p.GEgood))
	}
	if p.OutUp > 0 {
		add("outage %v/%v", p.OutUp, p.OutDown)
	}
	if p.Rate > 0 {
		add("rate %gkbit queue %dB", p.Rate/1e3, p.queueLimit())
	}
	if p.Dup > 0 {
		add("dup %s", pct(p.Dup))
	}
	if p.Reorder > 0 {
		add("reorder %s", pct(p.Reorder))
	}
	if p.MTU > 0 {
		add("mtu %d", p.MTU)
	}
	return b.String()[1:]
}
