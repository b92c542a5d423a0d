package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"holdfast/config"
	"holdfast/internal/journald"
)

// newLog returns the log of an agent in the form that the configuration and the surroundings ask for.
func (p *program) newLog(cfg config.Config, level *slog.LevelVar) *slog.Logger {
	return slog.New(journald.Thin(p.logHandler(logFormat(cfg.LogFormat, p.env, p.stderr), level)))
}

func (p *program) logHandler(format string, level *slog.LevelVar) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "journal":
		lines := newJournalHandler(p.stderr, level)
		if !journalReads(p.env, p.stderr) {
			return lines
		}
		if fields, err := journald.New(p.journal, level, lines); err == nil {
			return fields
		}
		return lines // no such socket in this container: systemd reads standard error
	case "text":
		return slog.NewTextHandler(p.stderr, options)
	default:
		return slog.NewJSONHandler(p.stderr, options)
	}
}

// logFormat decides what auto means: text for a person at a terminal, journal under systemd, json for anything else that
// collects lines.
func logFormat(wanted string, env []string, out io.Writer) string {
	switch {
	case wanted != "auto":
		return wanted
	case isTerminal(out):
		return "text"
	case underSystemd(env):
		return "journal"
	default:
		return "json"
	}
}

func journalReads(env []string, out io.Writer) bool { return underSystemd(env) && !isTerminal(out) }

// underSystemd goes by the variables that systemd.exec(5) sets for every service.
func underSystemd(env []string) bool {
	for _, pair := range env {
		for _, name := range []string{"JOURNAL_STREAM", "INVOCATION_ID"} {
			if value, ok := cutName(pair, name); ok && value != "" {
				return true
			}
		}
	}
	return false
}

// isTerminal reports whether out is a character device other than the null device, which is near enough to a terminal
// and the same on every system.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// journalHandler writes lines for systemd's journal, where its socket cannot be had: the priority in front as sd-daemon(3) has it, no time and no level,
// which the journal keeps itself.
type journalHandler struct {
	text slog.Handler // writes to buf
	line *journalLine // shared with the handlers derived from this one
}

type journalLine struct {
	mu  sync.Mutex
	buf bytes.Buffer
	out io.Writer
}

func newJournalHandler(out io.Writer, level slog.Leveler) *journalHandler {
	line := &journalLine{out: out}
	text := slog.NewTextHandler(&line.buf, &slog.HandlerOptions{Level: level, ReplaceAttr: dropLevel})
	return &journalHandler{text: text, line: line}
}

// dropLevel drops the level of the line, and no attribute that happens to have that name.
func dropLevel(groups []string, a slog.Attr) slog.Attr {
	if _, ours := a.Value.Any().(slog.Level); ours && len(groups) == 0 && a.Key == slog.LevelKey {
		return slog.Attr{}
	}
	return a
}

func (h *journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.text.Enabled(ctx, level)
}

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.line.mu.Lock()
	defer h.line.mu.Unlock()
	h.line.buf.Reset()
	h.line.buf.WriteString(priority(r.Level))
	r.Time = time.Time{} // a handler leaves out a zero time
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.line.out.Write(h.line.buf.Bytes())
	return err
}

func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<3>"
	case level >= slog.LevelWarn:
		return "<4>"
	case level >= slog.LevelInfo:
		return "<6>"
	default:
		return "<7>"
	}
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.text.WithAttrs(attrs), h.line}
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.text.WithGroup(name), h.line}
}
