const f=Math.fround;
const bits=new DataView(new ArrayBuffer(4));
const bitsOf=x=>{bits.setFloat32(0,x);return bits.getInt32(0)};
const floatOf=x=>{bits.setInt32(0,x);return bits.getFloat32(0)};
const pow=(x,y)=>x===1?1:Math.abs(x)===1&&(y===Infinity||y===-Infinity)?1:x**y;
const divide=(x,y)=>y===0?-1:x/y|0;
const remainder=(x,y)=>y===0?x:x%y|0;
const power=(x,n)=>{let r=1;for(;n>0;n>>=1){if(n&1)r=Math.imul(r,x);x=Math.imul(x,x)}return r};
const roundEven=x=>{const r=Math.round(x);return r-x===0.5&&r%2!==0?r-1:r};
const logAddExp=(x,y)=>{const m=Math.max(x,y);return Number.isFinite(m)?m+Math.log(Math.exp(x-m)+Math.exp(y-m)):m};
// The error function by its series, and for large numbers by its continued fraction.
const erf=x=>{
  const z=Math.abs(x);
  if(!(z<6))return z>=6?Math.sign(x):x;
  if(z<2.5){
    let sum=z,term=z;
    for(let n=1;n<60;n++){term*=-z*z/n;sum+=term/(2*n+1)}
    return Math.sign(x)*sum*1.1283791670955126;
  }
  let fraction=0;
  for(let n=60;n>0;n--)fraction=n/2/(z+fraction);
  return Math.sign(x)*(1-Math.exp(-z*z)*0.5641895835477563/(z+fraction));
};
// Its inverse, by Giles' approximation and two steps of Newton's method.
const erfInv=x=>{
  if(!(Math.abs(x)<1))return Math.abs(x)===1?x*Infinity:NaN;
  const a=Math.log(1-x*x),b=4.330746750799873+a/2;
  let y=Math.sign(x)*Math.sqrt(Math.sqrt(b*b-a/0.147)-b);
  for(let n=0;n<3;n++)y-=(erf(y)-x)/(1.1283791670955126*Math.exp(-y*y));
  return y;
};
// WebAssembly of row(a,ak,w,wk,K,N,o), all in bytes but K and N: for N columns, a multiple of 16, the sums over k of
// a[k] * w[k,n]. A loop over 16 columns at a time, in four registers of four float32, around a loop over k.
const MODULE=(()=>{
  const get=i=>[0x20,i],set=i=>[0x21,i],number=n=>[0x41,...(n<64?[n]:[n|128,n>>7])],simd=(...c)=>[0xfd,...c];
  const add=(i,by)=>[...get(i),...by,0x6a,...set(i)],count=(i,by)=>[...get(i),...number(by),0x6b,0x22,i,0x0d,0];
  const [a,ak,w,wk,K,N,o,p,q,k,x]=Array(11).keys(),sums=[11,12,13,14];
  const loop=(...code)=>[0x03,0x40,...code.flat(),0x0b];
  const terms=loop(get(p),simd(9,2,0),set(x),
    ...sums.map((s,j)=>[...get(s),...get(x),...get(q),...simd(0,2,16*j),...simd(0xe6,1),...simd(0xe4,1),...set(s)]),
    add(p,get(ak)),add(q,get(wk)),count(k,1));
  const columns=loop(...sums.map(s=>[...simd(12),...Array(16).fill(0),...set(s)]),
    get(a),set(p),get(w),set(q),get(K),set(k),terms,
    ...sums.map((s,j)=>[...get(o),...get(s),...simd(11,2,16*j)]),
    add(o,number(64)),add(w,number(64)),count(N,16));
  const body=[2,3,0x7f,5,0x7b,...columns,0x0b];
  const size=n=>[n&127|128,n>>7],section=(id,...bytes)=>[id,...size(bytes.length),...bytes];
  return new Uint8Array([0,0x61,0x73,0x6d,1,0,0,0,...section(1,1,0x60,7,...Array(7).fill(0x7f),0),
    ...section(2,1,1,0x6d,1,0x6d,2,0,1),...section(3,1,0),...section(7,1,1,0x72,0,0),
    ...section(10,1,...size(body.length),...body)]);
})();
// The heaps, and the function above; without WebAssembly's SIMD, null for it.
const heaps=(f,i)=>{
  try{
    const m=new WebAssembly.Memory({initial:Math.ceil((f+i)/16384)+1});
    const row=new WebAssembly.Instance(new WebAssembly.Module(MODULE),{m:{m}}).exports.r;
    return [new Float32Array(m.buffer,0,f),new Int32Array(m.buffer,4*f,i),row];
  }catch{return [new Float32Array(f),new Int32Array(i),null]}
};
// result[b,m,n] = sum over k of a[b,m,k] * b[b,n,k]; each matrix has an address and three strides.
const product=(F,B,M,N,K,a,ab,am,ak,w,wb,wn,wk,o)=>{
  for(let b=0;b<B;b++)for(let m=0;m<M;m++,o+=N){
    const x=a+b*ab+m*am,y=w+b*wb;
    let n=0;
    if(row&&wn===1&&N>15){n=N&~15;row(4*x,4*ak,4*y,4*wk,K,n,4*o)}
    for(;n+8<=N;n+=8){
      let s0=0,s1=0,s2=0,s3=0,s4=0,s5=0,s6=0,s7=0;
      for(let k=0,p=x,q=y+n*wn;k<K;k++,p+=ak,q+=wk){
        const v=F[p];
        s0+=v*F[q];s1+=v*F[q+wn];s2+=v*F[q+2*wn];s3+=v*F[q+3*wn];
        s4+=v*F[q+4*wn];s5+=v*F[q+5*wn];s6+=v*F[q+6*wn];s7+=v*F[q+7*wn];
      }
      F[o+n]=s0;F[o+n+1]=s1;F[o+n+2]=s2;F[o+n+3]=s3;F[o+n+4]=s4;F[o+n+5]=s5;F[o+n+6]=s6;F[o+n+7]=s7;
    }
    for(;n<N;n++){
      let s=0;
      for(let k=0,p=x,q=y+n*wn;k<K;k++,p+=ak,q+=wk)s+=F[p]*F[q];
      F[o+n]=s;
    }
  }
};
const wholeProduct=(I,B,M,N,K,a,ab,am,ak,w,wb,wn,wk,o)=>{
  for(let b=0;b<B;b++)for(let m=0;m<M;m++)for(let n=0;n<N;n++){
    let s=0;
    for(let k=0;k<K;k++)s=s+Math.imul(I[a+b*ab+m*am+k*ak],I[w+b*wb+n*wn+k*wk])|0;
    I[o++]=s;
  }
};
const half=h=>{
  const e=h>>10&31,m=h&1023,v=e===0?m*2**-24:e===31?(m?NaN:Infinity):(1+m/1024)*2**(e-15);
  return h&32768?-v:v;
};
const compare=(x,y)=>x<y?-1:x>y?1:x===y?0:(x!==x)-(y!==y);
const cholesky=(F,n,a,o)=>{
  for(let i=0;i<n;i++)for(let j=0;j<n;j++){
    if(j>i){F[o+i*n+j]=0;continue}
    let s=(F[a+i*n+j]+F[a+j*n+i])/2;
    for(let k=0;k<j;k++)s-=F[o+i*n+k]*F[o+j*n+k];
    F[o+i*n+j]=i===j?Math.sqrt(s):s/F[o+j*n+j];
  }
};
const solveTriangular=(F,n,m,lower,unit,a,b,o)=>{
  for(let t=0;t<n;t++)for(let c=0;c<m;c++){
    const i=lower?t:n-1-t;
    let s=F[b+i*m+c];
    for(let j=lower?0:i+1;j<(lower?i:n);j++)s-=F[a+i*n+j]*F[o+j*m+c];
    F[o+i*m+c]=unit?s:s/F[a+i*n+i];
  }
};
const ROTATIONS=[[13,15,26,6],[17,29,16,24]];
const threefry=(k0,k1,x0,x1)=>{
  const keys=[k0,k1,k0^k1^0x1BD11BDA];
  x0=x0+k0|0;x1=x1+k1|0;
  for(let i=0;i<5;i++){
    for(const r of ROTATIONS[i&1]){x0=x0+x1|0;x1=x1<<r|x1>>>32-r;x1^=x0}
    x0=x0+keys[(i+1)%3]|0;x1=x1+keys[(i+2)%3]+i+1|0;
  }
  return [x0,x1];
};
