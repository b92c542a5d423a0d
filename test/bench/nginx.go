package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// nginxConf is nginx as a cache in front of a member: one process, as the other contenders are, and connections for good.
const nginxConf = `daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr error;
events { worker_connections 2048; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/temp;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	proxy_cache_path %[1]s/cache levels=1:2 keys_zone=kv:16m max_size=256m inactive=1h use_temp_path=off;
	keepalive_requests 1000000000;
	server {
		listen %[2]s;
		location = /readyz { return 200; }
		location / {
			proxy_pass http://%[3]s;
			proxy_cache kv;
			proxy_cache_valid 200 1h;
		}
	}
}
`

// startNginx starts nginx with a cache in front of a member; nil where it is not installed, which is said.
func (b *bench) startNginx(ctx context.Context, member string) (v *server, end func(), err error) {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		b.report.print("\nnginx is not installed and is left out (Debian: apt-get install nginx-light).\n")
		return nil, nil, nil
	}
	dir, err := b.tempDir()
	if err != nil {
		return nil, nil, err
	}
	s := &system{name: "nginx", bin: bin, ready: askOK("/readyz"), args: func(dir string, port, _ int) []string {
		conf := filepath.Join(dir, "conf")
		if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, loopback(port), member), 0o600); err != nil {
			b.progress("nginx: %v", err) // and it does not start
		}
		return []string{"-p", dir, "-e", "stderr", "-c", conf}
	}}
	if v, err = s.start(ctx, dir, watched{}); err != nil {
		b.discard(dir)
		return nil, nil, err
	}
	return v, func() { v.kill(); b.discard(dir) }, nil
}
